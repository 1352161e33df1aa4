// A training run from config to saved model: pre-flight, loop, evaluation, checkpoints, summary.
#pragma once

#include <string>

#include "engine/config/load.h"
#include "engine/core/error.h"
#include "engine/train/report/console.h"

namespace engine {

struct TrainRequest {
  LoadedTrainConfig config;
  bool dry_run = false;          // stop after the pre-flight
  bool resume_override = false;  // continue although settings that shape the run changed
  std::string version;           // of the program, for the banner
  std::string repro;             // command line that repeats the run
};

// Runs to the end, to an early stop or to an interrupt (ExitCode::interrupted, after a checkpoint).
// Throws engine::Error, RUN-INTERRUPTED for an interrupt before the first step; nothing that was
// saved before is lost then.
ExitCode train(const TrainRequest& request, Console& console);

}  // namespace engine
