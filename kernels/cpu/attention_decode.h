// Attention of a few queries over many keys (decoding): memory-bound, so no tile products.
#pragma once

#include "kernels/cpu/attention_tile.h"

namespace engine::kernels::cpu::attention {

// Sequences of so many queries or fewer go through decode().
inline constexpr int64_t kMaxDecodeQueries = 4;

// All queries of one head of a sequence. T is float or BFloat16.
template <typename T>
void decode(const AttentionForward& arguments, const Sequence& sequence, int64_t head);

extern template void decode<float>(const AttentionForward&, const Sequence&, int64_t);
extern template void decode<BFloat16>(const AttentionForward&, const Sequence&, int64_t);

}  // namespace engine::kernels::cpu::attention
