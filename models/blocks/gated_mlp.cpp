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

Variable gated_mlp(Graph& graph, const Variable& residual, const Variable& x, const GatedMlp& mlp) {
  return feed_forward(graph, residual, x,
                      {.up = mlp.gate_up.weight,
                       .up_bias = mlp.gate_up.bias,
                       .down = mlp.down.weight,
                       .down_bias = mlp.down.bias,
                       .activation = mlp.activation,
                       .gated = true});
}

}  // namespace engine
