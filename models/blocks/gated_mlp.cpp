#include "models/blocks/gated_mlp.h"

namespace engine {

GatedMlp add_gated_mlp(ParameterSet& parameters, const GatedMlpShape& shape) {
  const int64_t hidden = shape.hidden_size, intermediate = shape.intermediate_size;
  return {.gate_up = add_projection(
              parameters, {.prefix = shape.prefix,
                           .outputs = {{"gate_proj", intermediate}, {"up_proj", intermediate}},
                           .inputs = hidden,
                           .bias = shape.bias,
                           .init = shape.init}),
          .down = add_projection(parameters, {.prefix = shape.prefix,
                                              .outputs = {{"down_proj", hidden}},
                                              .inputs = intermediate,
                                              .bias = shape.bias,
                                              .init = shape.init}),
          .activation = shape.activation};
}

Variable gated_mlp(Graph& graph, const Variable& x, const GatedMlp& mlp) {
  const Variable gate_up = project(graph, x, mlp.gate_up);
  graph.discard(x);
  const Variable gated = activation(graph, gate_up, mlp.activation, /*gated=*/true);
  Variable y = project(graph, gated, mlp.down);
  graph.discard(gated);
  return y;
}

}  // namespace engine
