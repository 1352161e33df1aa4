// AdamW over all parameters of a model, with global-norm clipping: the optimizer step.
#pragma once

#include <vector>

#include "engine/autograd/parameter.h"
#include "engine/config/train_config.h"

namespace engine {

class AdamW {
 public:
  // `seed`: of the rounding of parameters that have no master.
  AdamW(Runtime& runtime, ParameterSet& parameters, const OptimizerConfig& config,
        uint64_t seed = 0);

  struct Norm {
    float norm = 0;        // global gradient norm before clipping
    float clip_scale = 1;  // what the gradients are multiplied by
  };
  // Norm of all gradients; waits for the device. max_norm <= 0: no clipping.
  Norm measure(float max_norm);
  // Applies the gradients measured last with learning rate `lr`, and zeroes them.
  void step(double lr);
  // Zeroes the gradients without applying them.
  void discard_gradients();

  int64_t steps() const { return steps_; }  // updates applied so far
  void set_steps(int64_t steps) { steps_ = steps; }

  int64_t decayed_count() const { return decayed_; }
  int64_t exempt_count() const { return exempt_; }

 private:
  Runtime& runtime_;
  OptimizerConfig config_;
  std::vector<kernels::TensorSegment> segments_;
  uint64_t seed_;
  Tensor table_;      // the segments, for the device
  Tensor norm_;       // [2] norm, clip coefficient
  Tensor workspace_;  // of the norm
  int64_t steps_ = 0, decayed_ = 0, exempt_ = 0;
};

}  // namespace engine
