// Norms: of the residual stream, with the addition before it, and of heads.
#include "engine/autograd/ops.h"
#include "engine/autograd/slots.h"

namespace engine {

Normed add_norm(Graph& graph, const Variable& residual, const Variable& delta,
                const NormParameters& norm) {
  const int64_t tokens = residual.tensor().rows(), hidden = residual.tensor().columns();
  const DType compute = graph.precision().compute, dtype = residual.tensor().dtype();
  Runtime& runtime = graph.runtime();
  const bool recording = graph.recording();
  const bool layer_norm = norm.kind == kernels::NormKind::layer_norm;

  Normed out;
  out.residual = delta ? graph.result(runtime.transient({tokens, hidden}, dtype))
                       : Variable{residual.value, std::make_shared<GradSlot>()};
  out.y = graph.result(runtime.transient({tokens, hidden}, compute));
  Tensor mean, rstd;
  if (recording) {
    rstd = runtime.transient({tokens}, DType::f32);
    if (layer_norm) mean = runtime.transient({tokens}, DType::f32);
  }
  kernels::NormForward forward{.kind = norm.kind,
                               .tokens = tokens,
                               .hidden = hidden,
                               .eps = norm.eps,
                               .x = residual.tensor().data(),
                               .delta = delta ? delta.tensor().data() : nullptr,
                               .residual_out = delta ? out.residual.tensor().data() : nullptr,
                               .weight = norm.weight->value.data(),
                               .bias = norm.bias ? norm.bias->value.data() : nullptr,
                               .y = out.y.tensor().data(),
                               .mean = mean.as<float>(),
                               .rstd = rstd.as<float>(),
                               .compute_dtype = compute,
                               .residual_dtype = dtype};
  graph.ops().norm_forward(graph.stream(), forward);
  if (!recording) return out;

  out.y.value->rematerialize = [&graph, forward, tokens, hidden, compute,
                                r = out.residual.value]() mutable {
    Tensor y = graph.runtime().transient({tokens, hidden}, compute);
    forward.x = r->get().data();
    forward.delta = nullptr;
    forward.residual_out = nullptr;
    forward.mean = nullptr;
    forward.rstd = nullptr;
    forward.y = y.data();
    graph.ops().norm_forward(graph.stream(), forward);
    return y;
  };
  graph.record([&graph, norm, tokens, hidden, compute, dtype, mean, rstd, r = out.residual.value,
                r_grad = out.residual.grad, y_grad = out.y.grad, x_grad = residual.grad,
                delta_grad = delta ? delta.grad : nullptr] {
    const Tensor dy = take(*y_grad);
    Tensor d_residual = take(*r_grad);
    if (!dy && !d_residual) return;
    Tensor dx = d_residual && d_residual.unique()
                    ? d_residual
                    : graph.runtime().transient({tokens, hidden}, dtype);
    if (dy) {
      const Tensor workspace =
          graph.runtime().workspace(graph.ops().norm_backward_workspace(tokens, hidden));
      const bool train_bias = norm.bias && norm.bias->trainable;
      graph.ops().norm_backward(
          graph.stream(),
          {.kind = norm.kind,
           .tokens = tokens,
           .hidden = hidden,
           .dy = dy.data(),
           .d_residual = d_residual ? d_residual.data() : nullptr,
           .x = r->get().data(),
           .weight = norm.weight->value.data(),
           .mean = mean.as<float>(),
           .rstd = rstd.as<float>(),
           .dx = dx.data(),
           .d_weight = norm.weight->trainable ? norm.weight->grad.as<float>() : nullptr,
           .d_bias = train_bias ? norm.bias->grad.as<float>() : nullptr,
           .workspace = workspace.data(),
           .compute_dtype = compute,
           .residual_dtype = dtype});
    } else {
      dx = std::move(d_residual);
    }
    d_residual = Tensor();
    // One result serves both inputs of the addition.
    if (delta_grad) graph.accumulate(*delta_grad, cast(graph, dx, compute));
    graph.accumulate(*x_grad, std::move(dx));
  });
  return out;
}

Variable norm(Graph& graph, const Variable& x, const NormParameters& parameters) {
  return add_norm(graph, x, {}, parameters).y;
}

Variable norm_heads(Graph& graph, const Variable& qkv, const AttentionConfig& config,
                    const HeadNorms& norms) {
  const Tensor& x = qkv.tensor();
  const int64_t tokens = x.rows(), stride = x.columns();
  const DType dtype = x.dtype();
  const auto element = static_cast<int64_t>(kernels::size_of(dtype));
  // The heads of a kind: where they start within a token, and how many there are.
  struct Heads {
    NormParameters norm;
    int64_t column, count;
    Tensor rstd;
  };
  Heads kinds[] = {
      {norms.query, 0, config.num_heads, {}},
      {norms.key, int64_t{config.num_heads} * config.head_dim, config.num_kv_heads, {}}};
  const int64_t values = kinds[1].column + int64_t{config.num_kv_heads} * config.head_dim;

  Variable out = graph.result(graph.runtime().transient({tokens, stride}, dtype));
  for (Heads& heads : kinds) {
    const int64_t rows = tokens * heads.count;
    if (graph.recording()) heads.rstd = graph.runtime().transient({rows}, DType::f32);
    graph.ops().norm_forward(graph.stream(), {.kind = heads.norm.kind,
                                              .tokens = rows,
                                              .hidden = config.head_dim,
                                              .heads = heads.count,
                                              .token_stride = stride,
                                              .eps = heads.norm.eps,
                                              .x = x.as<char>() + heads.column * element,
                                              .weight = heads.norm.weight->value.data(),
                                              .y = out.tensor().as<char>() + heads.column * element,
                                              .rstd = heads.rstd.as<float>(),
                                              .compute_dtype = dtype,
                                              .residual_dtype = dtype});
  }
  graph.ops().gather_rows(graph.stream(), {.count = tokens,
                                           .width = stride - values,
                                           .x = x.as<char>() + values * element,
                                           .out = out.tensor().as<char>() + values * element,
                                           .x_stride = stride,
                                           .out_stride = stride,
                                           .dtype = dtype});
  if (!graph.recording()) return out;
  graph.record([&graph, query = kinds[0], key = kinds[1], tokens, stride, dtype, element,
                head_dim = config.head_dim, value = qkv.value, x_grad = qkv.grad, grad = out.grad] {
    Tensor d = take(*grad);
    if (!d) return;
    d = own(graph, std::move(d));  // the values' part stays, the rest is overwritten
    for (const Heads& heads : {query, key}) {
      const int64_t rows = tokens * heads.count, offset = heads.column * element;
      Parameter& weight = *heads.norm.weight;
      const Tensor workspace =
          graph.runtime().workspace(graph.ops().norm_backward_workspace(rows, head_dim));
      graph.ops().norm_backward(graph.stream(),
                                {.kind = heads.norm.kind,
                                 .tokens = rows,
                                 .hidden = head_dim,
                                 .heads = heads.count,
                                 .token_stride = stride,
                                 .dy = d.as<char>() + offset,
                                 .x = value->get().as<char>() + offset,
                                 .weight = weight.value.data(),
                                 .rstd = heads.rstd.as<float>(),
                                 .dx = d.as<char>() + offset,
                                 .d_weight = weight.trainable ? weight.grad.as<float>() : nullptr,
                                 .workspace = workspace.data(),
                                 .compute_dtype = dtype,
                                 .residual_dtype = dtype});
    }
    graph.accumulate(*x_grad, std::move(d));
  });
  return out;
}

}  // namespace engine
