// The attention sublayer that families share: from projections to the heads' output, with or
// without a cache.
#pragma once

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

}  // namespace engine
