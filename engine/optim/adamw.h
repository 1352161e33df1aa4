// AdamW over all parameters of a model, with global-norm clipping: the optimizer step.
//
//   for each micro-batch: backward, watch(losses)
//   outcome = update(max_norm, lr)
//
// Whether a step happens is decided on the device: a loss or a norm that is not finite raises a
// flag there, and the update that reads it leaves parameters and moments as they are. So the host
// queues all of it and waits for the norm alone, not for the update.
#pragma once

#include <vector>

#include "engine/autograd/parameter.h"
#include "engine/config/train_config.h"
#include "engine/core/event.h"
#include "engine/core/pinned.h"

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
  // A step whose losses are not all finite is not applied. Returns at once; `losses` (fp32) may be
  // given back.
  void watch(const Tensor& losses);
  struct Outcome {
    Norm norm;
    bool applied = false;  // else parameters, moments and steps() are as they were
  };
  // Applies the gradients, clipped to max_norm (<= 0: no clipping), with learning rate `lr`, unless
  // their norm or a loss watched since the last update is not finite; zeroes them in any case.
  // Waits for the norm, and so for what was queued before; the update itself may still run.
  Outcome update(float max_norm, double lr);

  // The same in two parts, for who wants to know before or measures times: the norm, which waits
  // for the device; then the update, whatever the norm is.
  Norm measure(float max_norm);
  void step(double lr);
  // Zeroes the gradients without applying them.
  void discard_gradients();

  int64_t steps() const { return steps_; }  // updates applied so far
  void set_steps(int64_t steps) { steps_ = steps; }

  int64_t decayed_count() const { return decayed_; }
  int64_t exempt_count() const { return exempt_; }

 private:
  void queue_norm(float max_norm, float* stop);
  void queue_update(double lr, int64_t step, const float* stop);
  float* stop() const { return norm_.as<float>() + 2; }

  Runtime& runtime_;
  OptimizerConfig config_;
  std::vector<kernels::TensorSegment> segments_;
  uint64_t seed_;
  Tensor table_;      // the segments, for the device
  Tensor norm_;       // [3] norm, clip coefficient, 1 to stop the step
  Tensor workspace_;  // of the norm
  PinnedBuffer arrived_;
  Event norm_is_there_;
  int64_t steps_ = 0, decayed_ = 0, exempt_ = 0;
};

}  // namespace engine
