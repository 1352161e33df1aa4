#include "models/blocks/projection.h"

#include <utility>

namespace engine {

Projection add_projection(ParameterSet& parameters, const ProjectionShape& shape) {
  std::vector<ParameterPart> weights, biases;
  for (const ProjectionShape::Output& output : shape.outputs) {
    const std::string name = shape.prefix + output.name;
    weights.push_back({name + ".weight", {output.rows, shape.inputs}, 0, shape.init});
    biases.push_back({name + ".bias", {output.rows}, 0, Initializer::zeros()});
  }
  Projection projection{.weight = &parameters.add_stacked(std::move(weights))};
  if (shape.bias) projection.bias = &parameters.add_stacked(std::move(biases));
  return projection;
}

Variable project(Graph& graph, const Variable& x, const Projection& projection) {
  return linear(graph, x, *projection.weight, projection.bias, projection.layout);
}

Variable project(Graph& graph, const Variable& residual, const Variable& x,
                 const Projection& projection) {
  return linear_add(graph, residual, x, *projection.weight, projection.bias, projection.layout);
}

}  // namespace engine
