#include "models/blocks/attention.h"

namespace engine {

Variable cached_or_self_attention(Graph& graph, const Variable& qkv, const AttentionConfig& config,
                                  const ModelBatch& batch, int layer) {
  if (!batch.cache.cache) return self_attention(graph, qkv, config, batch.sequences);
  kernels::require(!graph.recording(), "a cache is for generation, without gradients");

  const KvCache::Layer& store = batch.cache.cache->layers[layer];
  const Tensor& x = qkv.tensor();
  const int64_t tokens = x.rows(), stride = x.columns();
  const int64_t q_width = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv_width = int64_t{config.num_kv_heads} * config.head_dim;
  const int64_t element = static_cast<int64_t>(kernels::size_of(x.dtype()));
  const auto scatter = [&](int64_t column, const Tensor& to) {
    graph.ops().scatter_rows(graph.stream(), {.count = tokens,
                                              .width = kv_width,
                                              .rows = batch.cache.rows.as<int32_t>(),
                                              .x = x.as<char>() + column * element,
                                              .out = to.data(),
                                              .x_stride = stride,
                                              .out_stride = kv_width,
                                              .dtype = x.dtype()});
  };
  scatter(q_width, store.k);
  scatter(q_width + kv_width, store.v);

  Variable out = graph.result(graph.runtime().transient({tokens, q_width}, x.dtype()));
  const kernels::AttentionShape shape{.num_sequences = batch.sequences.count,
                                      .cu_seqlens_q = batch.sequences.cu_seqlens.as<int32_t>(),
                                      .cu_seqlens_k = batch.cache.starts.as<int32_t>(),
                                      .seqused_k = batch.cache.used.as<int32_t>(),
                                      .total_q = tokens,
                                      .total_k = store.k.rows(),
                                      .max_seqlen_q = batch.sequences.max_length,
                                      .max_seqlen_k = batch.cache.max_used,
                                      .num_heads = config.num_heads,
                                      .num_kv_heads = config.num_kv_heads,
                                      .head_dim = config.head_dim,
                                      .scale = config.scale,
                                      .causal = config.causal,
                                      .window = config.window,
                                      .dtype = x.dtype()};
  const Tensor workspace =
      graph.runtime().workspace(graph.ops().attention_forward_workspace(shape));
  graph.ops().attention_forward(graph.stream(), {.shape = shape,
                                                 .q = x.data(),
                                                 .k = store.k.data(),
                                                 .v = store.v.data(),
                                                 .q_stride = stride,
                                                 .k_stride = kv_width,
                                                 .v_stride = kv_width,
                                                 .out = out.tensor().data(),
                                                 .workspace = workspace.data()});
  return out;
}

}  // namespace engine
