// The learning rate of each optimizer step, as a multiple of optimizer.lr.
//
// With s = number of optimizer steps already completed (0 for the first update), w warm-up steps,
// T total steps, r = min_lr_ratio:
//
//   warm-up, s < w   warmup_start zero        s / w        (Hugging Face: the first update has lr
//   0)
//                    warmup_start one_over_w  (s + 1) / w
//   constant         1
//   linear           floor(1 - p)
//   cosine           floor((1 + cos(2 π num_cycles p)) / 2)
//   wsd              1 until d = decay_steps before T, then floor(g(q)) with q = (s - (T - d)) / d:
//                    g = 1 - q (linear), (1 + cos(π q)) / 2 (cosine), 1 - sqrt(q) (sqrt)
//
// where p = min(1, (s - w) / (T - w)) and floor(x) = x (1 - r) + r. These are the multipliers of
// the Hugging Face schedulers (constant_with_warmup, linear, cosine, cosine_with_min_lr,
// warmup_stable_decay) except that nothing rises again after T. As there, wsd with r > 0 also warms
// up from r; the other types warm up from 0.
#pragma once

#include <cstdint>

#include "engine/config/train_config.h"

namespace engine {

class Schedule {
 public:
  // Resolves ratios against `total_steps`. Throws Error CONF-SCHEDULE (exit code usage) when the
  // warm-up and the decay of wsd do not fit into total_steps.
  Schedule(const ScheduleConfig& config, int64_t total_steps);

  double multiplier(int64_t completed_steps) const;

  // True for a step that was not planned, such as after resuming a finished run: worth a warning,
  // because the multiplier has stopped at its last value, usually 0.
  bool past_end(int64_t completed_steps) const { return completed_steps >= total_steps_; }

  int64_t total_steps() const { return total_steps_; }
  int64_t warmup_steps() const { return warmup_steps_; }
  int64_t decay_steps() const { return decay_steps_; }  // wsd, else 0

 private:
  double warmup(int64_t completed_steps) const;
  double floored(double factor) const {
    return factor * (1.0 - config_.min_lr_ratio) + config_.min_lr_ratio;
  }

  ScheduleConfig config_;
  int64_t total_steps_;
  int64_t warmup_steps_;
  int64_t decay_steps_ = 0;
};

// ratio · total_steps rounded up, as the Hugging Face Trainer does with warmup_ratio.
int64_t steps_from_ratio(double ratio, int64_t total_steps);

}  // namespace engine
