// Attention over flat token lists, of a sequence to itself or to another, and the bias by distance.
#include "engine/autograd/ops.h"
#include "engine/autograd/slots.h"

namespace engine {
namespace {

// Where queries, keys and values are: columns of one fused buffer, or of two.
struct Operands {
  Variable q;   // [Nq, ..]: H·D columns from 0 on
  Variable kv;  // [Nk, ..]: K·D columns of keys from k_column on, then K·D of values
  int64_t k_column = 0;

  bool fused() const { return q.value == kv.value; }
};

void* column_of(const Tensor& tensor, int64_t column) {
  return tensor.as<char>() + column * static_cast<int64_t>(kernels::size_of(tensor.dtype()));
}

Variable attention(Graph& graph, const Operands& operands, const AttentionConfig& config,
                   const Sequences& queries, const Sequences& keys) {
  const Tensor& q = operands.q.tensor();
  const Tensor& kv = operands.kv.tensor();
  const int64_t q_width = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv_width = int64_t{config.num_kv_heads} * config.head_dim;
  const int64_t k_column = operands.k_column, v_column = k_column + kv_width;
  const DType dtype = q.dtype();
  const bool drop = config.dropout > 0 && graph.options().training;
  const Tensor bias = config.bias ? config.bias.values.tensor() : Tensor();
  const kernels::AttentionShape shape{.num_sequences = queries.count,
                                      .cu_seqlens_q = queries.cu_seqlens.as<int32_t>(),
                                      .cu_seqlens_k = keys.cu_seqlens.as<int32_t>(),
                                      .total_q = q.rows(),
                                      .total_k = kv.rows(),
                                      .max_seqlen_q = queries.max_length,
                                      .max_seqlen_k = keys.max_length,
                                      .num_heads = config.num_heads,
                                      .num_kv_heads = config.num_kv_heads,
                                      .head_dim = config.head_dim,
                                      .scale = config.scale,
                                      .causal = config.causal,
                                      .window = config.window,
                                      .distance_bias = bias.as<float>(),
                                      .distance_count = bias ? static_cast<int>(bias.columns()) : 0,
                                      .distance_offset = config.bias.offset,
                                      .dropout_p = drop ? config.dropout : 0.0f,
                                      .dropout_seed = drop ? graph.next_dropout_seed() : 0,
                                      .dtype = dtype};
  Variable out = graph.result(graph.runtime().transient({q.rows(), q_width}, dtype));
  const bool recording = graph.recording();
  Tensor lse;
  if (recording) lse = graph.runtime().transient({config.num_heads, q.rows()}, DType::f32);
  const Tensor forward_workspace =
      graph.runtime().workspace(graph.ops().attention_forward_workspace(shape));
  graph.ops().attention_forward(graph.stream(), {.shape = shape,
                                                 .q = q.data(),
                                                 .k = column_of(kv, k_column),
                                                 .v = column_of(kv, v_column),
                                                 .q_stride = q.columns(),
                                                 .k_stride = kv.columns(),
                                                 .v_stride = kv.columns(),
                                                 .out = out.tensor().data(),
                                                 .lse = lse.as<float>(),
                                                 .workspace = forward_workspace.data()});
  if (!recording) return out;
  graph.record([&graph, shape, queries, keys, k_column, v_column, dtype, lse, bias,
                fused = operands.fused(), q_value = operands.q.value, kv_value = operands.kv.value,
                q_grad = operands.q.grad, kv_grad = operands.kv.grad,
                bias_grad = config.bias ? config.bias.values.grad : nullptr, out_value = out.value,
                out_grad = out.grad] {
    const Tensor d_out = take(*out_grad);
    if (!d_out) return;
    Runtime& runtime = graph.runtime();
    const Tensor& q = q_value->get();
    const Tensor& kv = kv_value->get();
    Tensor d_q = runtime.transient(q.shape(), dtype);
    Tensor d_kv = fused ? d_q : runtime.transient(kv.shape(), dtype);
    const bool train_bias = bias_grad && bias_grad->needed;
    if (train_bias && !bias_grad->tensor) {
      // Every layer that shares the bias adds to it.
      bias_grad->tensor = runtime.transient(bias.shape(), DType::f32);
      runtime.zero(bias_grad->tensor);
    }
    {
      const Tensor workspace = runtime.workspace(graph.ops().attention_backward_workspace(shape));
      graph.ops().attention_backward(
          graph.stream(), {.shape = shape,
                           .q = q.data(),
                           .k = column_of(kv, k_column),
                           .v = column_of(kv, v_column),
                           .q_stride = q.columns(),
                           .k_stride = kv.columns(),
                           .v_stride = kv.columns(),
                           .out = out_value->get().data(),
                           .lse = lse.as<float>(),
                           .d_out = d_out.data(),
                           .d_q = d_q.data(),
                           .d_k = column_of(d_kv, k_column),
                           .d_v = column_of(d_kv, v_column),
                           .d_q_stride = q.columns(),
                           .d_k_stride = kv.columns(),
                           .d_v_stride = kv.columns(),
                           .d_distance_bias = train_bias ? bias_grad->tensor.as<float>() : nullptr,
                           .workspace = workspace.data()});
    }
    if (!fused) graph.accumulate(*kv_grad, std::move(d_kv));
    d_kv = Tensor();  // another handle on d_q would keep it from being written in place
    graph.accumulate(*q_grad, std::move(d_q));
  });
  return out;
}

}  // namespace

Variable self_attention(Graph& graph, const Variable& qkv, const AttentionConfig& config,
                        const Sequences& sequences) {
  const int64_t q_width = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv_width = int64_t{config.num_kv_heads} * config.head_dim;
  kernels::require(qkv.tensor().columns() == q_width + 2 * kv_width,
                   "self_attention: width of qkv");
  return attention(graph, {qkv, qkv, q_width}, config, sequences, sequences);
}

Variable cross_attention(Graph& graph, const Variable& q, const Variable& kv,
                         const AttentionConfig& config, const Sequences& queries,
                         const Sequences& keys) {
  const int64_t q_width = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv_width = int64_t{config.num_kv_heads} * config.head_dim;
  kernels::require(q.tensor().columns() == q_width && kv.tensor().columns() == 2 * kv_width,
                   "cross_attention: width of q or kv");
  kernels::require(queries.count == keys.count, "cross_attention: queries and keys do not pair");
  return attention(graph, {q, kv, 0}, config, queries, keys);
}

DistanceBias distance_bias(Graph& graph, Parameter& table, const DistanceBuckets& buckets,
                           int first, int count) {
  const int64_t num_buckets = table.shape[0], num_heads = table.shape[1];
  const Tensor& one_hot = buckets.one_hot;
  kernels::require(one_hot.rows() == num_buckets, "distance_bias: number of buckets");
  kernels::require(first >= buckets.first && first + count <= buckets.first + one_hot.columns(),
                   "distance_bias: distances that were not prepared");
  const int64_t column = first - buckets.first;
  DistanceBias bias;
  bias.offset = -first;
  bias.values = graph.result(graph.runtime().transient({num_heads, count}, DType::f32));
  bias.values.grad->needed = table.trainable;
  {
    // values = tableᵀ · one_hot: a sum of one term, so exact.
    const Tensor values = cast(graph, table.value, DType::f32);
    graph.ops().matmul(graph.stream(), {.a = values.data(),
                                        .b = column_of(one_hot, column),
                                        .d = bias.values.tensor().data(),
                                        .m = num_heads,
                                        .n = count,
                                        .k = num_buckets,
                                        .ldb = one_hot.columns(),
                                        .transpose_a = true});
  }
  if (!graph.recording() || !table.trainable) return bias;
  graph.record(
      [&graph, &table, one_hot, column, num_heads, num_buckets, count, grad = bias.values.grad] {
        const Tensor d = take(*grad);
        if (!d) return;
        graph.ops().matmul(graph.stream(), {.a = column_of(one_hot, column),
                                            .b = d.data(),
                                            .d = table.grad.data(),
                                            .m = num_buckets,
                                            .n = num_heads,
                                            .k = count,
                                            .lda = one_hot.columns(),
                                            .transpose_b = true,
                                            .accumulate = true});
      });
  return bias;
}

}  // namespace engine
