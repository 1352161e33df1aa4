#include "engine/step/policies.h"

namespace engine {

PrecisionPolicy precision_policy(const TrainConfig& config) {
  if (config.train.precision == Precision::fp32) return PrecisionPolicy::fp32();
  if (config.train.precision == Precision::tf32) return PrecisionPolicy::fp32_as_tf32();
  const PrecisionPolicy policy = config.train.residual == ResidualPrecision::fp32
                                     ? PrecisionPolicy::bf16_residual_fp32()
                                     : PrecisionPolicy::bf16();
  return config.optimizer.stochastic_rounding ? policy.without_masters() : policy;
}

RecomputePolicy recompute_policy(const RunConfig& config) {
  switch (config.recompute) {
    case Recompute::none:
      return RecomputePolicy::none;
    case Recompute::norms:
      return RecomputePolicy::norms;
    case Recompute::block:
      return RecomputePolicy::block;
  }
  return RecomputePolicy::none;
}

}  // namespace engine
