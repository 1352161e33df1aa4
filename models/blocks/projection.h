// A linear layer of a checkpoint, or several that read the same input, side by side.
#pragma once

#include <string>
#include <vector>

#include "engine/autograd/ops.h"

namespace engine {

struct Projection {
  Parameter* weight = nullptr;  // [outputs, inputs], or as the layout says
  Parameter* bias = nullptr;    // [outputs], or none
  WeightLayout layout = WeightLayout::out_in;
};

struct ProjectionShape {
  struct Output {
    std::string name;  // "q_proj"
    int64_t rows = 0;
  };
  std::string prefix;           // of the tensors' names, "model.layers.0.self_attn."
  std::vector<Output> outputs;  // stacked by rows into one matrix, so that one matmul serves all
  int64_t inputs = 0;
  bool bias = false;
  Initializer init;
};

// Adds "<prefix><name>.weight", and ".bias" (zeros), for every output.
Projection add_projection(ParameterSet& parameters, const ProjectionShape& shape);

// x [N, inputs] -> [N, outputs], in the compute dtype.
Variable project(Graph& graph, const Variable& x, const Projection& projection);
// The same added to `residual`, in its dtype, in one kernel; without one, the same.
Variable project(Graph& graph, const Variable& residual, const Variable& x,
                 const Projection& projection);

}  // namespace engine
