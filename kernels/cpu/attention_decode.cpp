#include "kernels/cpu/attention_decode.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpsabi"

namespace engine::kernels::cpu::attention {
namespace {

// Rows of a tile of keys or values.
template <typename T>
struct Rows {
  const T* data;
  int64_t stride, from, to;  // the rows that the query sees
};

// scores[r][key] = <query[r], row[key]>. Sixteen keys at a time: sums along head_dim, then one
// transpose adds up all sixteen.
template <int R, typename T>
void dot_rows(const float (&query)[R][kMaxHeadDim], const Rows<T>& rows, int64_t dim,
              float (&scores)[R][kTile]) {
  for (int64_t j = rows.from / 16 * 16; j < rows.to; j += 16) {
    F32x16 sum[R][16];
    for (int64_t i = 0; i < 16; ++i) {
      const T* const row = rows.data + std::clamp(j + i, rows.from, rows.to - 1) * rows.stride;
      prefetch_row(row + kTile * rows.stride, dim);
      F32x16 dot[R] = {};
      for_vectors(
          dim, [&](int64_t d, auto lanes) __attribute__((always_inline)) {
            const F32x16 key = load(row + d, lanes);
            for (int r = 0; r < R; ++r) dot[r] += key * load(query[r] + d);
          });
      for (int r = 0; r < R; ++r) sum[r][i] = dot[r];
    }
    for (int r = 0; r < R; ++r) {
      transpose(sum[r]);
      for (int width = 8; width > 0; width /= 2) {
        for (int i = 0; i < width; ++i) sum[r][i] += sum[r][i + width];
      }
      store(scores[r] + j, sum[r][0]);
    }
  }
}

// out[r] = out[r] · shrink[r] + Σ_key weight[r][key] · row[key]
template <int R, typename T>
void add_rows(const float (&weight)[R][kTile], const Rows<T>& rows, int64_t dim,
              const float (&shrink)[R], float (&out)[R][kMaxHeadDim]) {
  const auto panel = [&]<int V>(int64_t d, auto last, std::integral_constant<int, V>)
      __attribute__((always_inline)) {
    F32x16 sum[R][V];
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < V; ++v) sum[r][v] = load(out[r] + d + 16 * v) * shrink[r];
    }
    for (int64_t j = rows.from; j < rows.to; ++j) {
      const T* const row = rows.data + j * rows.stride + d;
      prefetch_row(row + kTile * rows.stride, 16 * V);
      F32x16 value[V];
      for (int v = 0; v + 1 < V; ++v) value[v] = load(row + 16 * v);
      value[V - 1] = load(row + 16 * (V - 1), last);
      for (int r = 0; r < R; ++r) {
        const F32x16 factor = broadcast(&weight[r][j]);
        for (int v = 0; v < V; ++v) sum[r][v] += value[v] * factor;
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < V; ++v) store(out[r] + d + 16 * v, sum[r][v]);
    }
  };
  int64_t d = 0;
  for (; d + 64 <= dim; d += 64) panel(d, AllLanes{}, std::integral_constant<int, 4>{});
  for (; d + 16 <= dim; d += 16) panel(d, AllLanes{}, std::integral_constant<int, 1>{});
  if (d < dim) panel(d, FirstLanes{dim - d}, std::integral_constant<int, 1>{});
}

// The softmax of one query and head over the tiles so far, in units of log2.
struct RunningSoftmax {
  float maximum = -kInfinity, sum = 0.0f;
};

// Scores of the keys [from, to) of a tile become P relative to the new maximum, zero elsewhere;
// returns the factor by which earlier sums shrink.
float update_softmax(const AttentionShape& shape, const float* head_bias, int64_t first_distance,
                     int64_t from, int64_t to, float* scores, RunningSoftmax& state) {
  const float factor = shape.scale * kLog2e;
  F32x16 highest = splat(state.maximum);
  for (int64_t j = 0; j < kTile; j += 16) {
    const I32x16 index = lane_index() + static_cast<int32_t>(j);
    const I32x16 visible =
        (index >= static_cast<int32_t>(from)) & (index < static_cast<int32_t>(to));
    F32x16 score = load(scores + j) * factor;
    if (head_bias) {
      float bias[16] = {};
      for (int64_t i = std::max(from, j); i < std::min(to, j + 16); ++i) {
        bias[i - j] = head_bias[first_distance + i];
      }
      score += load(bias) * kLog2e;
    }
    score = visible ? score : splat(-kInfinity);
    store(scores + j, score);
    highest = maximum(score, highest);
  }
  const float before = state.maximum;
  state.maximum = maximum_of_lanes(highest);
  const float reference = state.maximum == -kInfinity ? 0.0f : state.maximum;
  F32x16 sum = {};
  for (int64_t j = 0; j < kTile; j += 16) {
    const F32x16 p = exp2_of_nonpositive(load(scores + j) - reference);
    sum += p;
    store(scores + j, p);
  }
  const float shrink = exp2_of_nonpositive(splat(before - reference))[0];
  state.sum = state.sum * shrink + sum_of_lanes(sum);
  return shrink;
}

// Drops elements of P, and rounds them to T.
template <typename T>
void round_weights(const AttentionShape& shape, uint64_t first_index, float* weights) {
  for (int64_t j = 0; j < kTile; ++j) {
    if (shape.dropout_p == 0.0f) break;
    const auto index = first_index + static_cast<uint64_t>(j);
    const bool kept = philox_uniform(shape.dropout_seed.get(), index) >= shape.dropout_p;
    weights[j] *= kept ? 1.0f / (1.0f - shape.dropout_p) : 0.0f;
  }
  for (int64_t j = 0; j < kTile; j += 16) store(weights + j, round_to<T>(load(weights + j)));
}

// Query i of the heads [head, head + R): each row of keys and values is read once for all.
template <int R, typename T>
void decode_heads(const AttentionForward& arguments, const Sequence& sequence, int64_t head,
                  int64_t i) {
  const AttentionShape& shape = arguments.shape;
  const int64_t dim = shape.head_dim;
  const int64_t kv_head = head / (shape.num_heads / shape.num_kv_heads);
  const int64_t token = sequence.first_query + i;
  const int64_t position = sequence.position(i);
  alignas(64) float query[R][kMaxHeadDim] = {}, out[R][kMaxHeadDim] = {}, weight[R][kTile];
  RunningSoftmax state[R];
  for (int r = 0; r < R; ++r) {
    const T* const q =
        static_cast<const T*>(arguments.q) + token * arguments.q_stride + (head + r) * dim;
    for_vectors(
        dim, [&](int64_t d, auto lanes)
                 __attribute__((always_inline)) { store(query[r] + d, load(q + d, lanes)); });
  }

  const TileRange tiles = visible_tiles(shape, sequence, i, i);
  for (int64_t key = tiles.begin * kTile; key < tiles.end * kTile; key += kTile) {
    int64_t from = 0, to = std::min<int64_t>(kTile, sequence.num_keys - key);
    if (shape.causal) to = std::min(to, position + 1 - key);
    if (shape.window > 0) from = std::max(from, position - shape.window + 1 - key);
    if (from >= to) continue;
    const int64_t first_key = sequence.first_key + key;
    const auto rows = [&](const void* data, int64_t stride) {
      return Rows<T>{static_cast<const T*>(data) + first_key * stride + kv_head * dim, stride, from,
                     to};
    };
    std::fill_n(weight[0], R * kTile, 0.0f);
    dot_rows<R>(query, rows(arguments.k, arguments.k_stride), dim, weight);
    float shrink[R];
    for (int r = 0; r < R; ++r) {
      const float* const bias =
          shape.distance_bias ? shape.distance_bias + (head + r) * shape.distance_count : nullptr;
      shrink[r] = update_softmax(shape, bias, key - position + shape.distance_offset, from, to,
                                 weight[r], state[r]);
      const auto row = static_cast<uint64_t>((head + r) * shape.total_q + token);
      round_weights<T>(shape, (row << 20) + static_cast<uint64_t>(key), weight[r]);
    }
    add_rows<R>(weight, rows(arguments.v, arguments.v_stride), dim, shrink, out);
  }

  for (int r = 0; r < R; ++r) {
    const bool sees_nothing = state[r].maximum == -kInfinity && state[r].sum == 0.0f;
    const float inverse = sees_nothing ? 0.0f : 1.0f / state[r].sum;
    T* const to = static_cast<T*>(arguments.out) + (token * shape.num_heads + head + r) * dim;
    for_vectors(
        dim, [&](int64_t d, auto lanes) __attribute__((always_inline)) {
          store(to + d, load(out[r] + d) * inverse, lanes);
        });
    if (arguments.lse) {
      arguments.lse[(head + r) * shape.total_q + token] =
          sees_nothing ? -kInfinity : state[r].maximum * kLn2 + std::log(state[r].sum);
    }
  }
}

}  // namespace

template <typename T>
void decode(const AttentionForward& arguments, const Sequence& sequence, int64_t first_head,
            int64_t last_head) {
  for (int64_t i = 0; i < sequence.num_queries; ++i) {
    int64_t head = first_head;
    for (; head + 4 <= last_head; head += 4) decode_heads<4, T>(arguments, sequence, head, i);
    for (; head < last_head; ++head) decode_heads<1, T>(arguments, sequence, head, i);
  }
}

template void decode<float>(const AttentionForward&, const Sequence&, int64_t, int64_t);
template void decode<BFloat16>(const AttentionForward&, const Sequence&, int64_t, int64_t);

}  // namespace engine::kernels::cpu::attention

#pragma GCC diagnostic pop
