// Linear layers, alone and with what follows them in one kernel (kernels/api/matmul.h): a residual,
// or the activation between the two layers of a feed-forward block. Fused or not, not a bit
// differs.
#include "engine/autograd/ops.h"
#include "engine/autograd/slots.h"

namespace engine {
namespace {

using kernels::DType;
using kernels::Matmul;
using Epilogue = kernels::MatmulEpilogue::Kind;

// A weight as the products take it.
struct Layer {
  Parameter* weight;
  Parameter* bias;  // or null
  bool out_in;

  Layer(Parameter& w, Parameter* b, WeightLayout layout)
      : weight(&w), bias(b), out_in(layout == WeightLayout::out_in) {}
  int64_t in() const { return weight->shape[out_in ? 1 : 0]; }
  int64_t out() const { return weight->shape[out_in ? 0 : 1]; }
  bool trainable() const { return weight->trainable || (bias && bias->trainable); }

  // x [rows, in] times the weight.
  Matmul product(const Graph& graph, const Tensor& x, const Tensor& y) const {
    kernels::require(x.columns() == in(), "linear: x has another width than the weight");
    const DType dtype = graph.precision().compute;
    return {.a = x.data(),
            .b = weight->value.data(),
            .bias = bias ? bias->value.data() : nullptr,
            .d = y.data(),
            .m = x.rows(),
            .n = out(),
            .k = in(),
            .transpose_b = out_in,
            .input_dtype = dtype,
            .output_dtype = dtype,
            .allow_tf32 = graph.precision().tf32};
  }
  // dy [rows, out] times the weight the other way round.
  Matmul input_gradient(const Graph& graph, const Tensor& dy, const Tensor& dx) const {
    const DType dtype = graph.precision().compute;
    return {.a = dy.data(),
            .b = weight->value.data(),
            .d = dx.data(),
            .m = dy.rows(),
            .n = in(),
            .k = out(),
            .transpose_b = !out_in,
            .input_dtype = dtype,
            .output_dtype = dtype,
            .allow_tf32 = graph.precision().tf32};
  }
  // Adds to the gradients of bias and weight; `x` is asked for only if the weight wants it.
  void accumulate(Graph& graph, const Tensor& dy, ValueSlot& x) const {
    const DType dtype = graph.precision().compute;
    if (bias && bias->trainable) {
      graph.ops().column_sum(graph.stream(), {.x = dy.data(),
                                              .out = bias->grad.as<float>(),
                                              .rows = dy.rows(),
                                              .columns = out(),
                                              .accumulate = true,
                                              .dtype = dtype});
    }
    if (!weight->trainable) return;
    const Tensor& input = x.get();
    // dW[out, in] += dyᵀ x, or its transpose for [in, out].
    Matmul product{.a = out_in ? dy.data() : input.data(),
                   .b = out_in ? input.data() : dy.data(),
                   .d = weight->grad.data(),
                   .m = out_in ? out() : in(),
                   .n = out_in ? in() : out(),
                   .k = dy.rows(),
                   .transpose_a = true,
                   .accumulate = true,
                   .input_dtype = dtype,
                   .output_dtype = DType::f32,
                   .allow_tf32 = graph.precision().tf32};
    const Tensor workspace = graph.runtime().workspace(graph.ops().matmul_workspace(product));
    product.workspace = workspace.data();
    graph.ops().matmul(graph.stream(), product);
  }
};

void multiply(Graph& graph, Matmul product, const kernels::MatmulEpilogue& epilogue) {
  product.epilogue = epilogue;
  const Tensor workspace = graph.runtime().workspace(graph.ops().matmul_workspace(product));
  product.workspace = workspace.data();
  graph.ops().matmul(graph.stream(), product);
}

Tensor empty(Graph& graph, int64_t rows, int64_t columns) {
  return graph.runtime().transient({rows, columns}, graph.precision().compute);
}

// residual + x Wᵀ + b, or without a residual (an empty tensor); no history.
Variable forward(Graph& graph, const Tensor& residual, const Tensor& x, const Layer& layer) {
  if (!residual) {
    Variable y = graph.result(empty(graph, x.rows(), layer.out()));
    graph.ops().matmul(graph.stream(), layer.product(graph, x, y.tensor()));
    return y;
  }
  Variable y = graph.result(graph.runtime().transient(residual.shape(), residual.dtype()));
  multiply(
      graph, layer.product(graph, x, y.tensor()),
      {.kind = Epilogue::add, .residual = residual.data(), .residual_dtype = residual.dtype()});
  return y;
}
Tensor tensor_of(const Variable& residual) {
  return residual ? residual.tensor() : Tensor();
}

// The gradient that has arrived at y, in the compute dtype; it is the residual's too. Empty: none.
Tensor take_for_branch(Graph& graph, GradSlot& y, const std::shared_ptr<GradSlot>& residual) {
  Tensor d = take(y);
  if (!d) return d;
  Tensor dy = cast(graph, d, graph.precision().compute);
  if (residual) graph.accumulate(*residual, std::move(d));
  return dy;
}

Variable linear_with(Graph& graph, const Variable& residual, const Variable& x,
                     const Layer& layer) {
  Variable y = forward(graph, tensor_of(residual), x.tensor(), layer);
  if (!graph.recording()) return y;
  graph.record([&graph, layer, residual_grad = residual.grad, x_value = x.value, x_grad = x.grad,
                y_grad = y.grad] {
    const Tensor dy = take_for_branch(graph, *y_grad, residual_grad);
    if (!dy) return;
    layer.accumulate(graph, dy, *x_value);
    if (!x_grad->needed) return;
    Tensor dx = empty(graph, dy.rows(), layer.in());
    graph.ops().matmul(graph.stream(), layer.input_gradient(graph, dy, dx));
    graph.accumulate(*x_grad, std::move(dx));
  });
  return y;
}

}  // namespace

Variable linear(Graph& graph, const Variable& x, Parameter& weight, Parameter* bias,
                WeightLayout layout) {
  return linear_with(graph, {}, x, Layer(weight, bias, layout));
}

Variable linear_add(Graph& graph, const Variable& residual, const Variable& x, Parameter& weight,
                    Parameter* bias, WeightLayout layout) {
  return linear_with(graph, residual, x, Layer(weight, bias, layout));
}

Variable feed_forward(Graph& graph, const Variable& residual, const Variable& x,
                      const FeedForward& block) {
  const Layer up(*block.up, block.up_bias, block.layout);
  const Layer down(*block.down, block.down_bias, block.layout);
  const int64_t tokens = x.tensor().rows(), width = down.in();
  kernels::require(up.out() == (block.gated ? 2 * width : width),
                   "feed_forward: up and down have different widths");
  const DType dtype = graph.precision().compute;
  const bool recording = graph.recording();
  const bool drops = block.dropout > 0.0f && graph.options().training;
  // What the backward needs: the activation's input, from which its result can be made again.
  // ReLU's result says as much as its input (where it is positive, dropped or not), and takes its
  // place.
  const bool relu = block.activation == kernels::Activation::relu && !block.gated;
  const auto hidden = std::make_shared<ValueSlot>();
  const auto inner = relu ? hidden : std::make_shared<ValueSlot>();
  const bool keep_inner = recording && !relu;
  if (keep_inner) inner->tensor = empty(graph, tokens, up.out());
  hidden->tensor = empty(graph, tokens, width);
  multiply(graph, up.product(graph, x.tensor(), hidden->tensor),
           {.kind = Epilogue::activation,
            .activation = block.activation,
            .gated = block.gated,
            .x = inner->tensor.data(),
            .keep_x = keep_inner});
  const Tensor to = tensor_of(residual);  // it may be x, which is given up now
  graph.discard(x);
  kernels::Dropout dropout{.count = tokens * width, .p = block.dropout, .dtype = dtype};
  if (drops) dropout.seed = graph.next_dropout_seed();
  const auto drop = [&graph, drops, dropout](const Tensor& values) {
    if (!drops) return;
    kernels::Dropout in_place = dropout;
    in_place.x = in_place.y = values.data();
    graph.ops().dropout(graph.stream(), in_place);
  };
  drop(hidden->tensor);
  Variable y = forward(graph, to, hidden->tensor, down);
  if (!recording) return y;

  if (!relu) {
    hidden->rematerialize = [&graph, block, inner, tokens, width, dtype, drop] {
      Tensor again = empty(graph, tokens, width);
      graph.ops().activation_forward(graph.stream(), {.kind = block.activation,
                                                      .gated = block.gated,
                                                      .tokens = tokens,
                                                      .width = width,
                                                      .x = inner->tensor.data(),
                                                      .y = again.data(),
                                                      .dtype = dtype});
      drop(again);
      return again;
    };
    graph.discard({hidden, nullptr});
  }
  graph.record([&graph, up, down, block, inner, hidden, tokens, width, dtype, drops, drop,
                residual_grad = residual.grad, x_value = x.value, x_grad = x.grad,
                y_grad = y.grad] {
    const Tensor dy = take_for_branch(graph, *y_grad, residual_grad);
    if (!dy) return;
    down.accumulate(graph, dy, *hidden);
    // The input is read for the last time here, so its memory takes the gradient.
    const Tensor d_inner = inner->tensor;
    hidden->tensor = Tensor();
    if (!x_grad->needed && !up.trainable()) return;
    if (drops) {
      const Tensor d_hidden = empty(graph, tokens, width);
      graph.ops().matmul(graph.stream(), down.input_gradient(graph, dy, d_hidden));
      drop(d_hidden);
      graph.ops().activation_backward(graph.stream(), {.kind = block.activation,
                                                       .gated = block.gated,
                                                       .tokens = tokens,
                                                       .width = width,
                                                       .x = d_inner.data(),
                                                       .dy = d_hidden.data(),
                                                       .dx = d_inner.data(),
                                                       .dtype = dtype});
    } else {
      multiply(graph, down.input_gradient(graph, dy, d_inner),
               {.kind = Epilogue::activation_gradient,
                .activation = block.activation,
                .gated = block.gated,
                .x = d_inner.data()});
    }
    up.accumulate(graph, d_inner, *x_value);
    if (!x_grad->needed) return;
    Tensor dx = empty(graph, dy.rows(), up.in());
    graph.ops().matmul(graph.stream(), up.input_gradient(graph, d_inner, dx));
    graph.accumulate(*x_grad, std::move(dx));
  });
  return y;
}

}  // namespace engine
