// The attention sublayer that decoder families share: from the fused qkv buffer to the heads'
// output, with or without a cache.
#pragma once

#include "models/model.h"

namespace engine {

// qkv [N, (H + 2K)·D] -> [N, H·D]. While training it is self_attention; with a cache the new keys
// and values are stored first and attention runs against all that the cache holds.
Variable cached_or_self_attention(Graph& graph, const Variable& qkv, const AttentionConfig& config,
                                  const ModelBatch& batch, int layer);

}  // namespace engine
