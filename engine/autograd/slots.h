// What the operations of this room do with slots. Private to engine/autograd.
#pragma once

#include <utility>

#include "engine/autograd/graph.h"

namespace engine {

// The gradient that has arrived, if any; the slot is empty then.
inline Tensor take(GradSlot& slot) {
  return std::exchange(slot.tensor, Tensor());
}

// A gradient that is about to be overwritten in place: itself when nobody else holds it.
inline Tensor own(Graph& graph, Tensor gradient) {
  if (gradient.unique()) return gradient;
  Tensor copy = graph.runtime().transient(gradient.shape(), gradient.dtype());
  graph.ops().copy(graph.stream(), copy.data(), gradient.data(), gradient.bytes());
  return copy;
}

inline Tensor cast(Graph& graph, const Tensor& x, DType to) {
  if (x.dtype() == to) return x;
  Tensor out = graph.runtime().transient(x.shape(), to);
  graph.ops().cast(
      graph.stream(),
      {.x = x.data(), .out = out.data(), .count = x.count(), .from = x.dtype(), .to = to});
  return out;
}

}  // namespace engine
