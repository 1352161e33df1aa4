// What a run knows of its own past: everything a checkpoint must hold besides tensors, so that a
// resumed run writes the same numbers as one that was never interrupted.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>

#include "engine/config/train_config.h"
#include "engine/data/batch.h"
#include "engine/train/report/best_tracker.h"
#include "engine/train/report/trackers.h"

namespace engine {

struct TrainProgress {
  explicit TrainProgress(const TrainConfig& config);

  int64_t step = 0;       // optimizer steps completed (skipped ones included)
  int64_t updates = 0;    // of those, the ones that changed the weights
  DataPosition position;  // of the next micro-batch
  int64_t tokens = 0, tokens_trained = 0;
  int64_t rows = 0;     // sequences seen
  double loss_sum = 0;  // of all steps, each one's mean loss
  double flops = 0;
  int64_t nonfinite = 0, skipped = 0, clipped = 0;

  // Since the last log record.
  struct Interval {
    double loss_sum = 0;
    int64_t steps = 0, nonfinite = 0;
  } interval;

  ExponentialAverage loss_ema;
  ZScore loss_z, norm_z;
  RecentShare recent_clipped;
  BestTracker best;
  double max_norm_z = 0;
  int64_t max_norm_z_step = 0;
  std::vector<double> first_losses;  // of the first 20 steps
  std::vector<double> last_losses;   // of the last 20 steps
  std::optional<double> first_eval, last_eval;

  nlohmann::json to_json() const;
  void from_json(const nlohmann::json& state);
};

}  // namespace engine
