// Attention of a few queries over many keys (decoding): memory-bound, so no tile products.
#pragma once

#include "kernels/cpu/attention_tile.h"

namespace engine::kernels::cpu::attention {

// Sequences of so many queries or fewer go through decode().
inline constexpr int64_t kMaxDecodeQueries = 4;

// All queries of the heads [first_head, last_head) of a sequence, which share a kv head. T is float
// or BFloat16.
template <typename T>
void decode(const AttentionForward& arguments, const Sequence& sequence, int64_t first_head,
            int64_t last_head);

extern template void decode<float>(const AttentionForward&, const Sequence&, int64_t, int64_t);
extern template void decode<BFloat16>(const AttentionForward&, const Sequence&, int64_t, int64_t);

}  // namespace engine::kernels::cpu::attention
