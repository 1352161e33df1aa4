// What the tests of norms share: numbers, and the arguments that follow from them.
#pragma once

#include "tests/kernels/reference/norm.h"

namespace engine::kernels::testing {

struct Types {
  DType compute, residual;
};

inline reference::NormInputs inputs(NormKind kind, int64_t tokens, int64_t hidden, DType dtype,
                                    Random& random) {
  reference::NormInputs in{kind, tokens, hidden, rounded(DType::f32, 1e-5), {}, {}};
  in.weight = random.uniform(hidden, dtype, 0.5, 1.5);
  if (kind == NormKind::rms_gemma) in.weight = random.uniform(hidden, dtype, -0.5, 0.5);
  if (kind == NormKind::layer_norm) in.bias = random.normal(hidden, dtype, 0.2);
  return in;
}

struct Data {
  Values x, delta, dy, d_residual;
};
inline Data data(const reference::NormInputs& in, Types types, Random& random) {
  const int64_t count = in.tokens * in.hidden;
  Data d{random.normal(count, types.residual, 2.0), random.normal(count, types.compute),
         random.normal(count, types.compute), random.normal(count, types.residual)};
  for (double& v : d.x) v = rounded(types.residual, v + 0.5);  // a mean to remove
  return d;
}

inline NormForward forward_arguments(const reference::NormInputs& in, Types types) {
  return {.kind = in.kind,
          .tokens = in.tokens,
          .hidden = in.hidden,
          .eps = static_cast<float>(in.eps),
          .compute_dtype = types.compute,
          .residual_dtype = types.residual};
}
inline NormBackward backward_arguments(const reference::NormInputs& in, Types types) {
  return {.kind = in.kind,
          .tokens = in.tokens,
          .hidden = in.hidden,
          .compute_dtype = types.compute,
          .residual_dtype = types.residual};
}

// Gradients of weight and bias, from `start` on, and their workspace.
struct WeightGradients {
  WeightGradients(const Operations& ops, Stream stream, const reference::NormInputs& in,
                  const Values& start)
      : d_weight(stream, DType::f32, start),
        d_bias(stream, DType::f32, start),
        workspace(stream, DType::u8,
                  static_cast<int64_t>(ops.norm_backward_workspace(in.tokens, in.hidden))) {}
  void set(NormBackward& arguments) const {
    arguments.d_weight = d_weight.as<float>();
    arguments.d_bias = arguments.kind == NormKind::layer_norm ? d_bias.as<float>() : nullptr;
    arguments.workspace = workspace.data();
  }

  DeviceArray d_weight, d_bias, workspace;
};

}  // namespace engine::kernels::testing
