// Everything of a run that is decided before memory is taken: model shape, tokenizer, data,
// policies. Building it is the first half of the pre-flight.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/config/train_config.h"
#include "engine/data/batcher.h"
#include "engine/step/memory_plan.h"
#include "engine/train/run_checkpoint.h"
#include "tokenizer/tokenizer.h"
#include "weights/checkpoint.h"

namespace engine {

struct RunSetup {
  TrainConfig config;
  kernels::Stream device;

  std::string model_name;                // path or "from <config>"
  std::optional<Checkpoint> checkpoint;  // pretrained only
  ModelFactory make_model;
  std::unique_ptr<Model> shape;  // an instance without memory, for its facts
  PrecisionPolicy precision;
  RecomputePolicy recompute = RecomputePolicy::none;

  std::shared_ptr<const Tokenizer> tokenizer;        // null when rows are token ids already
  std::shared_ptr<const Batcher> train, validation;  // validation may be null
  // Classification: the classes, and what the labels of train's and validation's data mean.
  std::vector<std::string> class_names;
  LabelTargets label_targets, validation_label_targets;

  // What ends a sample: the ids of generation_config.json, else of config.json, else the
  // tokenizer's EOS.
  std::vector<int32_t> generation_eos;

  ModelFiles files;  // what saved directories contain besides tensors

  // Shapes the run can meet at most.
  TrainingShape training_shape;
};

// Throws engine::Error for everything a user can have got wrong, and RUN-INTERRUPTED when a signal
// asks for an end while data is read (signals.h).
RunSetup prepare_run(const TrainConfig& config);

}  // namespace engine
