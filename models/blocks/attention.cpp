#include "models/blocks/attention.h"

namespace engine {
namespace {

// Keys (from `column` of x on) and the values behind them into the rows of `step`.
void store_keys_values(Graph& graph, const CacheStep& step, int layer, const Tensor& x,
                       int64_t column, const AttentionConfig& config) {
  const KvCache::Layer& store = step.cache->layers[layer];
  const int64_t width = int64_t{config.num_kv_heads} * config.head_dim;
  const int64_t element = static_cast<int64_t>(kernels::size_of(x.dtype()));
  const auto scatter = [&](int64_t from, const Tensor& to) {
    graph.ops().scatter_rows(graph.stream(), {.count = x.rows(),
                                              .width = width,
                                              .rows = step.rows.as<int32_t>(),
                                              .x = x.as<char>() + from * element,
                                              .out = to.data(),
                                              .x_stride = x.columns(),
                                              .out_stride = width,
                                              .dtype = x.dtype()});
  };
  scatter(column, store.k);
  scatter(column + width, store.v);
}

// Attention of the queries in the first columns of q to what the cache holds.
Variable cached_attention(Graph& graph, const Tensor& q, const AttentionConfig& config,
                          const Sequences& queries, const CacheStep& step, int layer) {
  const KvCache::Layer& store = step.cache->layers[layer];
  const int64_t q_width = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv_width = int64_t{config.num_kv_heads} * config.head_dim;
  const Tensor bias = config.bias ? config.bias.values.tensor() : Tensor();
  Variable out = graph.result(graph.runtime().transient({q.rows(), q_width}, q.dtype()));
  const kernels::AttentionShape shape{.num_sequences = queries.count,
                                      .cu_seqlens_q = queries.cu_seqlens.as<int32_t>(),
                                      .cu_seqlens_k = step.starts.as<int32_t>(),
                                      .seqused_k = step.used.as<int32_t>(),
                                      .total_q = q.rows(),
                                      .total_k = store.k.rows(),
                                      .max_seqlen_q = queries.max_length,
                                      .max_seqlen_k = step.max_used,
                                      .num_heads = config.num_heads,
                                      .num_kv_heads = config.num_kv_heads,
                                      .head_dim = config.head_dim,
                                      .scale = config.scale,
                                      .causal = config.causal,
                                      .window = config.window,
                                      .distance_bias = bias.as<float>(),
                                      .distance_count = bias ? static_cast<int>(bias.columns()) : 0,
                                      .distance_offset = config.bias.offset,
                                      .dtype = q.dtype()};
  const Tensor workspace =
      graph.runtime().workspace(graph.ops().attention_forward_workspace(shape));
  graph.ops().attention_forward(graph.stream(), {.shape = shape,
                                                 .q = q.data(),
                                                 .k = store.k.data(),
                                                 .v = store.v.data(),
                                                 .q_stride = q.columns(),
                                                 .k_stride = kv_width,
                                                 .v_stride = kv_width,
                                                 .out = out.tensor().data(),
                                                 .workspace = workspace.data()});
  return out;
}

}  // namespace

Variable cached_or_self_attention(Graph& graph, const Variable& qkv, const AttentionConfig& config,
                                  const ModelBatch& batch, int layer) {
  if (!batch.cache.cache) return self_attention(graph, qkv, config, batch.sequences);
  kernels::require(!graph.recording(), "a cache is for generation, without gradients");
  const int64_t q_width = int64_t{config.num_heads} * config.head_dim;
  store_keys_values(graph, batch.cache, layer, qkv.tensor(), q_width, config);
  return cached_attention(graph, qkv.tensor(), config, batch.sequences, batch.cache, layer);
}

Variable cached_or_cross_attention(Graph& graph, const Variable& q, const Variable& kv,
                                   const AttentionConfig& config, const ModelBatch& batch,
                                   int layer) {
  if (!batch.source_cache.cache) {
    return cross_attention(graph, q, kv, config, batch.sequences, batch.source_sequences);
  }
  kernels::require(!graph.recording(), "a cache is for generation, without gradients");
  if (kv) store_keys_values(graph, batch.source_cache, layer, kv.tensor(), 0, config);
  return cached_attention(graph, q.tensor(), config, batch.sequences, batch.source_cache, layer);
}

RotaryAttention add_rotary_attention(ParameterSet& parameters, const RotaryAttentionShape& shape) {
  const AttentionConfig& config = shape.config;
  const int64_t q = int64_t{config.num_heads} * config.head_dim;
  const int64_t kv = int64_t{config.num_kv_heads} * config.head_dim;
  return {
      .qkv = add_projection(parameters, {.prefix = shape.prefix,
                                         .outputs = {{"q_proj", q}, {"k_proj", kv}, {"v_proj", kv}},
                                         .inputs = shape.hidden_size,
                                         .bias = shape.qkv_bias,
                                         .init = shape.init}),
      .out = add_projection(parameters, {.prefix = shape.prefix,
                                         .outputs = {{"o_proj", shape.hidden_size}},
                                         .inputs = q,
                                         .bias = shape.out_bias,
                                         .init = shape.init}),
      .config = config,
      .head_norms = std::nullopt};
}

Variable rotary_attention(Graph& graph, const Variable& x, const RotaryAttention& attention,
                          const AttentionContext& context) {
  const AttentionConfig& config = attention.config;
  Variable qkv = project(graph, x, attention.qkv);
  graph.discard(x);
  if (attention.head_norms) qkv = norm_heads(graph, qkv, config, *attention.head_norms);
  qkv = rope(graph, qkv, context.batch.positions, context.rope,
             config.num_heads + config.num_kv_heads, config.head_dim);
  const Variable heads = cached_or_self_attention(graph, qkv, config, context.batch, context.layer);
  return project(graph, context.residual, heads, attention.out);
}

}  // namespace engine
