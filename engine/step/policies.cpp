#include "engine/step/policies.h"

namespace engine {

PrecisionPolicy precision_policy(const RunConfig& config) {
  if (config.precision == Precision::fp32) return PrecisionPolicy::fp32();
  if (config.precision == Precision::tf32) return PrecisionPolicy::fp32_as_tf32();
  return config.residual == ResidualPrecision::fp32 ? PrecisionPolicy::bf16_residual_fp32()
                                                    : PrecisionPolicy::bf16();
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
