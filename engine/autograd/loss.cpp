// Roots of the graph: losses with the gradient that they send, and logits without one.
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
