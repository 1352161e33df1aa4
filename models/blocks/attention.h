// The attention sublayers that families share.
#pragma once

#include <optional>
#include <string>

#include "models/blocks/projection.h"
#include "models/model.h"

namespace engine {

// qkv [N, (H + 2K)·D] -> [N, H·D]. While training it is self_attention; with a cache the new keys
// and values are stored first and attention runs against all that the cache holds.
Variable cached_or_self_attention(Graph& graph, const Variable& qkv, const AttentionConfig& config,
                                  const ModelBatch& batch, int layer);

// q [N, H·D] of the decoder, kv [M, 2K·D] of the encoder -> [N, H·D]. While training it is
// cross_attention; with a cache kv is stored when it comes, with the first tokens of the decoder,
// and may be empty afterwards.
Variable cached_or_cross_attention(Graph& graph, const Variable& q, const Variable& kv,
                                   const AttentionConfig& config, const ModelBatch& batch,
                                   int layer);

// Self-attention with rotary positions, whole: from the normed residual stream to what is added to
// it.
//
//   q, k, v = x Wqkvᵀ (+ b);   q, k = RMS(q), RMS(k) where there are head norms
//   y = attention(rope(q), rope(k), v) Woᵀ (+ b) (+ residual)
struct RotaryAttention {
  Projection qkv, out;
  AttentionConfig config;
  std::optional<HeadNorms> head_norms;
};

struct RotaryAttentionShape {
  std::string prefix;  // "model.layers.0.self_attn."
  int64_t hidden_size = 0;
  AttentionConfig config;
  bool qkv_bias = false, out_bias = false;
  Initializer init;
};

// Adds q_proj, k_proj, v_proj and o_proj; no head norms.
RotaryAttention add_rotary_attention(ParameterSet& parameters, const RotaryAttentionShape& shape);

// Where a layer's attention stands.
struct AttentionContext {
  const ModelBatch& batch;
  const RopeTable& rope;
  int layer = 0;
  Variable residual = {};  // what the result is added to, in the last product; or none
};

// x [N, hidden] -> [N, hidden]. x may be discarded (Graph::discard): nothing else reads it.
Variable rotary_attention(Graph& graph, const Variable& x, const RotaryAttention& attention,
                          const AttentionContext& context);

}  // namespace engine
