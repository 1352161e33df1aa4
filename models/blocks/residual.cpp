#include "models/blocks/residual.h"

namespace engine {
namespace {

bool drops(const Graph& graph, const ResidualStream& stream) {
  return stream.dropout > 0.0f && graph.options().training;
}

}  // namespace

Sum project_onto(Graph& graph, const ResidualStream& stream, const Variable& x,
                 const Projection& projection) {
  if (!drops(graph, stream)) return {project(graph, stream.x, x, projection), {}};
  return {stream.x, dropout(graph, project(graph, x, projection), stream.dropout)};
}

Sum feed_forward_onto(Graph& graph, const ResidualStream& stream, const Variable& x,
                      const FeedForward& block) {
  if (!drops(graph, stream)) return {feed_forward(graph, stream.x, x, block), {}};
  // x may be the stream: its value is held until it is added.
  const Variable residual{std::make_shared<ValueSlot>(ValueSlot{stream.x.tensor(), nullptr}),
                          stream.x.grad};
  return {residual, dropout(graph, feed_forward(graph, {}, x, block), stream.dropout)};
}

Normed add_norm(Graph& graph, const Sum& sum, const NormParameters& norm) {
  return add_norm(graph, sum.residual, sum.branch, norm);
}

Variable added(Graph& graph, const Sum& sum) {
  return sum.branch ? add(graph, sum.residual, sum.branch) : sum.residual;
}

}  // namespace engine
