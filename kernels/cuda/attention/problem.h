// What every attention kernel is told, where its sequence lies, and which keys a query sees.
//
// Work is cut by sequence: a block takes `rows` consecutive queries (or keys) of one sequence and
// one head. The host does not know the lengths, so the blocks of a launch are numbered by slots:
// sequence s owns the slots from cu_seqlens[s] / rows + s on, which is room for all of its tiles
// and at most one too many; total / rows + num_sequences slots are enough for any batch. Tiles
// begin at multiples of their size from the start of each sequence: what a sequence is packed with
// changes no bit of it.
#pragma once

#include <type_traits>

#include "kernels/api/attention.h"
#include "kernels/cuda/device/warp.h"

namespace engine::kernels::ENGINE_GPU::attention {

struct Problem {
  const int32_t* cu_seqlens_q;
  const int32_t* cu_seqlens_k;
  const int32_t* seqused_k;
  int num_sequences;
  int num_heads, num_kv_heads, group, head_dim;
  int64_t total_q;
  float scale;
  bool causal;
  int window;
  const float* distance_bias;
  int distance_count, distance_offset;
  float dropout_p, keep_scale;  // keep_scale = 1 / (1 - p)
  Scalar<uint64_t> dropout_seed;
};

inline Problem problem_of(const AttentionShape& shape) {
  return {.cu_seqlens_q = shape.cu_seqlens_q,
          .cu_seqlens_k = shape.cu_seqlens_k,
          .seqused_k = shape.seqused_k,
          .num_sequences = shape.num_sequences,
          .num_heads = shape.num_heads,
          .num_kv_heads = shape.num_kv_heads,
          .group = shape.num_heads / shape.num_kv_heads,
          .head_dim = shape.head_dim,
          .total_q = shape.total_q,
          .scale = shape.scale,
          .causal = shape.causal,
          .window = shape.window < 1 << 30 ? shape.window : 1 << 30,  // no overflow below
          .distance_bias = shape.distance_count > 0 ? shape.distance_bias : nullptr,
          .distance_count = shape.distance_count,
          .distance_offset = shape.distance_offset,
          .dropout_p = shape.dropout_p,
          .keep_scale = static_cast<float>(1.0 / (1.0 - shape.dropout_p)),
          .dropout_seed = shape.dropout_seed};
}

// Kernels are compiled for few widths of a head; narrower heads are padded with zeros in shared
// memory. Calls body(std::integral_constant<int, W>()) with the first W of kWidths, which ascend,
// that holds head_dim.
template <int... kWidths, typename Body>
void for_padded_dim(int head_dim, const Body& body) {
  const bool found =
      ((head_dim <= kWidths && (body(std::integral_constant<int, kWidths>()), true)) || ...);
  require(found, "attention: no kernel is wide enough for this head_dim");
}
// The widths of the forward and the backward.
template <typename T, typename Body>
void for_padded_dim(int head_dim, const Body& body) {
  if constexpr (sizeof(T) == 2) {
    for_padded_dim<32, 64, 96, 128, 256>(head_dim, body);
  } else {
    for_padded_dim<32, 64, 128, 256>(head_dim, body);
  }
}

// Heads of one tensor: element [token, head, d] is data[token * stride + head * head_dim + d].
// aligned: rows and heads begin on 16-byte boundaries.
template <typename T>
struct Heads {
  T* data;
  int64_t stride;
  bool aligned;

  ENGINE_DEVICE T* at(int64_t token, int head, int head_dim) const {
    return data + token * stride + head * head_dim;
  }
};
template <typename T>
Heads<T> heads_of(const void* data, int64_t stride, int head_dim) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  const int64_t element = sizeof(T);
  const bool aligned =
      address % 16 == 0 && stride * element % 16 == 0 && head_dim * element % 16 == 0;
  return {static_cast<T*>(const_cast<void*>(data)), stride, aligned};
}

// Slots for all tiles of `rows` tokens.
inline int64_t count_slots(int64_t total, int num_sequences, int rows) {
  return total / rows + num_sequences;
}

// The sequence that owns a slot, and its first slot: a search with 32 probes at a time, by every
// warp for itself.
struct Slot {
  int sequence, tile;
};
ENGINE_DEVICE Slot find_slot(const int32_t* cu_seqlens, int num_sequences, int rows, int slot) {
  int first = 0, count = num_sequences;
  const int lane = lane_index();
  while (count > 1) {
    const int step = ceil_div(count, kWarp);
    const int s = first + lane * step;
    const bool at_or_before =
        lane * step < count && load(cu_seqlens + s) / rows + s <= slot;  // true up to some lane
    const int found = count_bits(ballot(at_or_before)) - 1;
    first += found * step;
    count = step < count - found * step ? step : count - found * step;
  }
  return {first, slot - (load(cu_seqlens + first) / rows + first)};
}

struct Sequence {
  int first_query, num_queries;
  int first_key, num_keys;  // keys in use
  int key_span;             // keys of cu_seqlens_k, in use or not
  // The position of query i is i + offset.
  ENGINE_DEVICE int offset() const { return num_keys - num_queries; }
};
ENGINE_DEVICE Sequence load_sequence(const Problem& problem, int s) {
  Sequence sequence;
  sequence.first_query = load(problem.cu_seqlens_q + s);
  sequence.num_queries = load(problem.cu_seqlens_q + s + 1) - sequence.first_query;
  sequence.first_key = load(problem.cu_seqlens_k + s);
  sequence.key_span = load(problem.cu_seqlens_k + s + 1) - sequence.first_key;
  sequence.num_keys = problem.seqused_k ? load(problem.seqused_k + s) : sequence.key_span;
  return sequence;
}

// Indices [begin, end).
struct Range {
  int begin, end;
  ENGINE_DEVICE bool contains(int i) const {  // one comparison; false for every i if empty
    return static_cast<unsigned>(i - begin) < static_cast<unsigned>(end - begin);
  }
};
ENGINE_DEVICE int smaller(int a, int b) {
  return a < b ? a : b;
}
ENGINE_DEVICE int larger(int a, int b) {
  return a > b ? a : b;
}

// The keys that the query at `position` sees, of num_keys; never begin > end. Positions and keys
// may both be counted from any key.
ENGINE_DEVICE Range visible_keys(const Problem& problem, int num_keys, int position) {
  const int end = larger(0, problem.causal ? smaller(num_keys, position + 1) : num_keys);
  const int begin = problem.window > 0 ? larger(0, position - problem.window + 1) : 0;
  return {smaller(begin, end), end};
}
// The queries that see the key j, of num_queries, of which query 0 is at position `offset`.
ENGINE_DEVICE Range visible_queries(const Problem& problem, int num_queries, int offset, int j) {
  const int begin = problem.causal ? larger(0, j - offset) : 0;
  // j > p - window, so p < j + window
  const int end = larger(
      0, problem.window > 0 ? smaller(num_queries, j - offset + problem.window) : num_queries);
  return {smaller(begin, end), end};
}

}  // namespace engine::kernels::ENGINE_GPU::attention
