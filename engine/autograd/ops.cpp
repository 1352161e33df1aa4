#include "engine/autograd/ops.h"

#include "engine/autograd/slots.h"

namespace engine {

Variable embedding(Graph& graph, const EmbeddingInputs& in) {
  const int64_t tokens = in.ids.count(), hidden = in.table->shape[1];
  const DType dtype = graph.precision().residual;
  Variable out = graph.result(graph.runtime().transient({tokens, hidden}, dtype));
  graph.ops().embedding_forward(
      graph.stream(),
      {.tokens = tokens,
       .hidden = hidden,
       .ids = in.ids.as<int32_t>(),
       .table = in.table->value.data(),
       .scale = in.scale,
       .positions = in.position_table ? in.positions.as<int32_t>() : nullptr,
       .position_table = in.position_table ? in.position_table->value.data() : nullptr,
       .out = out.tensor().data(),
       .table_dtype = in.table->value.dtype(),
       .output_dtype = dtype});
  if (!graph.recording()) return out;
  graph.record([&graph, in, tokens, hidden, dtype, grad = out.grad] {
    const Tensor d_out = take(*grad);
    if (!d_out) return;
    const bool position_grad = in.position_table && in.position_table->trainable;
    const int64_t rows = in.table->shape[0];
    const int64_t position_rows = position_grad ? in.position_table->shape[0] : 0;
    const Tensor workspace = graph.runtime().workspace(
        graph.ops().embedding_backward_workspace(tokens, hidden, rows, position_rows));
    graph.ops().embedding_backward(
        graph.stream(),
        {.tokens = tokens,
         .hidden = hidden,
         .rows = rows,
         .position_rows = position_rows,
         .ids = in.ids.as<int32_t>(),
         .positions = in.positions ? in.positions.as<int32_t>() : nullptr,
         .d_out = d_out.data(),
         .d_table = in.table->trainable ? in.table->grad.as<float>() : nullptr,
         .d_position_table = position_grad ? in.position_table->grad.as<float>() : nullptr,
         .scale = in.scale,
         .padding_id = in.table->padding_row,
         .workspace = workspace.data(),
         .output_dtype = dtype});
  });
  return out;
}

Variable add(Graph& graph, const Variable& residual, const Variable& delta) {
  const Tensor& a = residual.tensor();
  const Tensor& b = delta.tensor();
  Variable out = graph.result(graph.runtime().transient(a.shape(), a.dtype()));
  graph.ops().add(graph.stream(), {.a = a.data(),
                                   .b = b.data(),
                                   .out = out.tensor().data(),
                                   .count = a.count(),
                                   .a_dtype = a.dtype(),
                                   .b_dtype = b.dtype(),
                                   .out_dtype = a.dtype()});
  if (!graph.recording()) return out;
  graph.record(
      [&graph, grad = out.grad, a_grad = residual.grad, b_grad = delta.grad, b_dtype = b.dtype()] {
        Tensor d_out = take(*grad);
        if (!d_out) return;
        graph.accumulate(*b_grad, cast(graph, d_out, b_dtype));
        graph.accumulate(*a_grad, std::move(d_out));
      });
  return out;
}

Variable rope(Graph& graph, const Variable& x, const Tensor& positions, const RopeTable& table,
              int num_heads, int head_dim) {
  const kernels::Rope forward{.x = x.tensor().data(),
                              .tokens = x.tensor().rows(),
                              .stride = x.tensor().columns(),
                              .num_heads = num_heads,
                              .head_dim = head_dim,
                              .positions = positions.as<int32_t>(),
                              .cos = table.cos.as<float>(),
                              .sin = table.sin.as<float>(),
                              .inverse = false,
                              .dtype = x.tensor().dtype()};
  graph.ops().rope(graph.stream(), forward);
  Variable out{x.value, std::make_shared<GradSlot>()};
  if (!graph.recording()) return out;
  graph.record([&graph, forward, positions, x_grad = x.grad, grad = out.grad] {
    Tensor d = take(*grad);
    if (!d) return;
    d = own(graph, std::move(d));
    kernels::Rope backward = forward;
    backward.x = d.data();
    backward.inverse = true;
    graph.ops().rope(graph.stream(), backward);
    graph.accumulate(*x_grad, std::move(d));
  });
  return out;
}

Variable activation(Graph& graph, const Variable& x, kernels::Activation kind, bool gated) {
  const int64_t tokens = x.tensor().rows();
  const int64_t width = x.tensor().columns() / (gated ? 2 : 1);
  const DType dtype = x.tensor().dtype();
  const auto forward = [&graph, kind, gated, tokens, width, dtype](const Tensor& input) {
    Tensor y = graph.runtime().transient({tokens, width}, dtype);
    graph.ops().activation_forward(graph.stream(), {.kind = kind,
                                                    .gated = gated,
                                                    .tokens = tokens,
                                                    .width = width,
                                                    .x = input.data(),
                                                    .y = y.data(),
                                                    .dtype = dtype});
    return y;
  };
  Variable out = graph.result(forward(x.tensor()));
  if (!graph.recording()) return out;
  out.value->rematerialize = [forward, x_value = x.value] { return forward(x_value->get()); };
  graph.record([&graph, kind, gated, tokens, width, dtype, x_value = x.value, x_grad = x.grad,
                grad = out.grad] {
    const Tensor dy = take(*grad);
    if (!dy) return;
    // The input is read for the last time here, so its memory takes the gradient, if it is ours.
    Tensor input = x_value->get();
    x_value->tensor = Tensor();
    Tensor dx = input.unique() ? input : graph.runtime().transient(input.shape(), dtype);
    graph.ops().activation_backward(graph.stream(), {.kind = kind,
                                                     .gated = gated,
                                                     .tokens = tokens,
                                                     .width = width,
                                                     .x = input.data(),
                                                     .dy = dy.data(),
                                                     .dx = dx.data(),
                                                     .dtype = dtype});
    graph.accumulate(*x_grad, std::move(dx));
  });
  return out;
}

Variable dropout(Graph& graph, const Variable& x, float p) {
  if (p <= 0.0f || !graph.options().training) return x;
  const Tensor& input = x.tensor();
  Variable out = graph.result(graph.runtime().transient(input.shape(), input.dtype()));
  kernels::Dropout forward{.count = input.count(),
                           .x = input.data(),
                           .y = out.tensor().data(),
                           .p = p,
                           .seed = graph.next_dropout_seed(),
                           .offset = 0,
                           .dtype = input.dtype()};
  graph.ops().dropout(graph.stream(), forward);
  if (!graph.recording()) return out;
  if (graph.options().recompute == RecomputePolicy::norms && x.value->rematerialize) {
    // Only then: it keeps the input's slot, which else dies with its last reader.
    out.value->rematerialize = [&graph, forward, x_value = x.value]() mutable {
      const Tensor& again = x_value->get();
      Tensor y = graph.runtime().transient(again.shape(), again.dtype());
      forward.x = again.data();
      forward.y = y.data();
      graph.ops().dropout(graph.stream(), forward);
      return y;
    };
  }
  graph.record([&graph, forward, x_grad = x.grad, grad = out.grad]() mutable {
    Tensor d = take(*grad);
    if (!d) return;
    d = own(graph, std::move(d));
    forward.x = d.data();
    forward.y = d.data();
    graph.ops().dropout(graph.stream(), forward);
    graph.accumulate(*x_grad, std::move(d));
  });
  return out;
}

Variable gather_rows(Graph& graph, const Variable& x, const Tensor& rows) {
  const Tensor& input = x.tensor();
  const int64_t count = rows.count(), width = input.columns();
  Variable out = graph.result(graph.runtime().transient({count, width}, input.dtype()));
  graph.ops().gather_rows(graph.stream(), {.count = count,
                                           .width = width,
                                           .rows = rows.as<int32_t>(),
                                           .x = input.data(),
                                           .out = out.tensor().data(),
                                           .dtype = input.dtype()});
  if (!graph.recording()) return out;
  graph.record([&graph, rows, count, width, shape = input.shape(), dtype = input.dtype(),
                x_grad = x.grad, grad = out.grad] {
    const Tensor d_out = take(*grad);
    if (!d_out) return;
    Tensor d = graph.runtime().transient(shape, dtype);
    graph.runtime().zero(d);
    graph.ops().scatter_rows(graph.stream(), {.count = count,
                                              .width = width,
                                              .rows = rows.as<int32_t>(),
                                              .x = d_out.data(),
                                              .out = d.data(),
                                              .dtype = dtype});
    graph.accumulate(*x_grad, std::move(d));
  });
  return out;
}

}  // namespace engine
