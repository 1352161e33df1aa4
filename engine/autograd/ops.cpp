#include "engine/autograd/ops.h"

#include "engine/autograd/slots.h"

namespace engine {
namespace {

// fp32 numbers that may be overwritten: never the caller's own.
Tensor fp32_copy(Graph& graph, const Tensor& x) {
  if (x.dtype() != DType::f32) return cast(graph, x, DType::f32);
  Tensor copy = graph.runtime().transient(x.shape(), DType::f32);
  graph.ops().copy(graph.stream(), copy.data(), x.data(), x.bytes());
  return copy;
}

}  // namespace

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

CrossEntropyResult linear_cross_entropy(Graph& graph, const Variable& hidden, Parameter& head,
                                        const Tensor& targets, const CrossEntropyOptions& options) {
  const Tensor& x = hidden.tensor();
  Runtime& runtime = graph.runtime();
  CrossEntropyResult result;
  result.losses = runtime.transient({x.rows()}, DType::f32);
  if (options.argmax) result.argmax = runtime.transient({x.rows()}, DType::i32);
  Tensor d_hidden;
  if (graph.recording()) d_hidden = runtime.transient(x.shape(), x.dtype());
  kernels::LinearCrossEntropy arguments{
      .tokens = x.rows(),
      .hidden_size = x.columns(),
      .vocab_size = head.shape[0],
      .hidden = x.data(),
      .weight = head.value.data(),
      .targets = targets.as<int32_t>(),
      .logit_scale = options.logit_scale,
      .grad_scale = options.grad_scale,
      .losses = result.losses.as<float>(),
      .argmax = options.argmax ? result.argmax.as<int32_t>() : nullptr,
      .d_hidden = d_hidden.data(),
      .d_weight = graph.recording() && head.trainable ? head.grad.as<float>() : nullptr,
      .dtype = x.dtype(),
      .allow_tf32 = graph.precision().tf32};
  const Tensor workspace = runtime.workspace(graph.ops().linear_cross_entropy_workspace(arguments));
  arguments.workspace = workspace.data();
  graph.ops().linear_cross_entropy(graph.stream(), arguments);
  if (d_hidden) graph.accumulate(*hidden.grad, std::move(d_hidden));
  return result;
}

CrossEntropyResult cross_entropy(Graph& graph, const Variable& logits, const Tensor& targets,
                                 const CrossEntropyOptions& options) {
  const Tensor z = fp32_copy(graph, logits.tensor());
  Runtime& runtime = graph.runtime();
  CrossEntropyResult result;
  result.losses = runtime.transient({z.rows()}, DType::f32);
  if (options.argmax) result.argmax = runtime.transient({z.rows()}, DType::i32);
  graph.ops().cross_entropy(graph.stream(),
                            {.rows = z.rows(),
                             .classes = z.columns(),
                             .logits = z.as<float>(),
                             .stride = z.columns(),
                             .targets = targets.as<int32_t>(),
                             .grad_scale = options.grad_scale,
                             .losses = result.losses.as<float>(),
                             .argmax = options.argmax ? result.argmax.as<int32_t>() : nullptr,
                             .d_logits = graph.recording()});
  if (graph.recording()) {
    graph.accumulate(*logits.grad, cast(graph, z, logits.tensor().dtype()));
  }
  return result;
}

Tensor score_loss(Graph& graph, const Variable& scores, const Tensor& targets,
                  const ScoreLossOptions& options) {
  const Tensor s = fp32_copy(graph, scores.tensor());
  const Tensor losses = graph.runtime().transient({s.rows()}, DType::f32);
  graph.ops().score_loss(graph.stream(), {.kind = options.kind,
                                          .rows = s.rows(),
                                          .outputs = s.columns(),
                                          .scores = s.as<float>(),
                                          .targets = targets.as<float>(),
                                          .grad_scale = options.grad_scale,
                                          .losses = losses.as<float>(),
                                          .d_scores = graph.recording()});
  if (graph.recording()) {
    graph.accumulate(*scores.grad, cast(graph, s, scores.tensor().dtype()));
  }
  return losses;
}

Tensor to_fp32(Graph& graph, const Tensor& x) {
  return cast(graph, x, DType::f32);
}

Tensor logits(Graph& graph, const Variable& hidden, const Parameter& head, float scale) {
  const Tensor& x = hidden.tensor();
  Tensor z = graph.runtime().transient({x.rows(), head.shape[0]}, DType::f32);
  graph.ops().matmul(graph.stream(), {.a = x.data(),
                                      .b = head.value.data(),
                                      .d = z.data(),
                                      .m = x.rows(),
                                      .n = head.shape[0],
                                      .k = x.columns(),
                                      .transpose_b = true,
                                      .input_dtype = x.dtype(),
                                      .output_dtype = DType::f32});
  if (scale != 1.0f) {
    graph.ops().cast(graph.stream(),
                     {.x = z.data(), .out = z.data(), .count = z.count(), .scale = scale});
  }
  return z;
}

}  // namespace engine
