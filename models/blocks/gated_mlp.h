// The gated linear unit of Llama and its relatives (Shazeer 2020, "GLU Variants"):
//
//   y = (act(x Wgᵀ) ∘ (x Wuᵀ)) Wdᵀ
#pragma once

#include <string>

#include "models/blocks/projection.h"

namespace engine {

struct GatedMlp {
  Projection gate_up;  // the gate's rows, then those of what is gated
  Projection down;
  kernels::Activation activation = kernels::Activation::silu;
};

struct GatedMlpShape {
  std::string prefix;  // "model.layers.0.mlp."
  int64_t hidden_size = 0, intermediate_size = 0;
  kernels::Activation activation = kernels::Activation::silu;
  bool bias = false;
  Initializer init;
};

// Adds gate_proj, up_proj and down_proj.
GatedMlp add_gated_mlp(ParameterSet& parameters, const GatedMlpShape& shape);

// residual + y(x), x [N, hidden] -> [N, hidden]; without a residual y alone, in the compute dtype.
// x may be discarded (Graph::discard): nothing else reads it.
Variable gated_mlp(Graph& graph, const Variable& residual, const Variable& x, const GatedMlp& mlp);

}  // namespace engine
