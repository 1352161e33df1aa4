#include "kernels/cpu/attention_decode.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpsabi"

namespace engine::kernels::cpu::attention {
namespace {

// Sixteen keys at a time: products along head_dim, then one transpose sums all sixteen.
template <typename T>
void dot_rows(const float* query, const T* rows, int64_t stride, int64_t count, int64_t dim,
              float* out) {
  for (int64_t j = 0; j < count; j += 16) {
    F32x16 sum[16];
    const int64_t here = std::min<int64_t>(16, count - j);
    for (int64_t i = 0; i < 16; ++i) {
      const T* const row = rows + (j + std::min(i, here - 1)) * stride;
      prefetch_row(row + kTile * stride, dim);
      F32x16 dot = {};
      for_vectors(
          dim, [&](int64_t d, auto lanes) __attribute__((always_inline)) {
            dot += load(row + d, lanes) * load(query + d);
          });
      sum[i] = dot;
    }
    transpose(sum);
    for (int width = 8; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) sum[i] += sum[i + width];
    }
    store(out + j, sum[0]);
  }
}

// out[dim] = out · shrink + Σ_j weight[j] · row[j]
template <typename T>
void add_rows(const float* weight, const T* rows, int64_t stride, int64_t count, int64_t dim,
              float shrink, float* out) {
  const auto panel = [&]<int V>(int64_t d, auto last, std::integral_constant<int, V>)
      __attribute__((always_inline)) {
    F32x16 sum[V];
    for (int v = 0; v < V; ++v) sum[v] = load(out + d + 16 * v) * shrink;
    for (int64_t j = 0; j < count; ++j) {
      const T* const row = rows + j * stride + d;
      const F32x16 factor = splat(weight[j]);
      for (int v = 0; v + 1 < V; ++v) sum[v] += load(row + 16 * v) * factor;
      sum[V - 1] += load(row + 16 * (V - 1), last) * factor;
    }
    for (int v = 0; v < V; ++v) store(out + d + 16 * v, sum[v]);
  };
  for (int64_t j = 0; j < count; ++j) prefetch_row(rows + (j + kTile) * stride, dim);
  int64_t d = 0;
  for (; d + 64 <= dim; d += 64) panel(d, AllLanes{}, std::integral_constant<int, 4>{});
  for (; d + 16 <= dim; d += 16) panel(d, AllLanes{}, std::integral_constant<int, 1>{});
  if (d < dim) panel(d, FirstLanes{dim - d}, std::integral_constant<int, 1>{});
}

}  // namespace

template <typename T>
void decode(const AttentionForward& arguments, const Sequence& sequence, int64_t head) {
  const AttentionShape& shape = arguments.shape;
  const int64_t dim = shape.head_dim;
  const int64_t kv_head = head / (shape.num_heads / shape.num_kv_heads);
  const float* const bias =
      shape.distance_bias ? shape.distance_bias + head * shape.distance_count : nullptr;
  for (int64_t i = 0; i < sequence.num_queries; ++i) {
    const int64_t token = sequence.first_query + i;
    const int64_t position = sequence.position(i);
    alignas(64) float query[kMaxHeadDim] = {}, out[kMaxHeadDim] = {}, weight[kTile];
    const T* const q = static_cast<const T*>(arguments.q) + token * arguments.q_stride + head * dim;
    for_vectors(
        dim, [&](int64_t d, auto lanes)
                 __attribute__((always_inline)) { store(query + d, load(q + d, lanes)); });

    float maximum_score = -kInfinity, sum = 0.0f;
    const TileRange tiles = visible_tiles(shape, sequence, i, i);
    for (int64_t key = tiles.begin * kTile; key < tiles.end * kTile; key += kTile) {
      const int64_t first_key = sequence.first_key + key;
      // The keys that the query sees are [from, to) of the tile.
      int64_t from = 0, to = std::min<int64_t>(kTile, sequence.num_keys - key);
      if (shape.causal) to = std::min(to, position + 1 - key);
      if (shape.window > 0) from = std::max(from, position - shape.window + 1 - key);
      if (from >= to) continue;

      const T* const k =
          static_cast<const T*>(arguments.k) + first_key * arguments.k_stride + kv_head * dim;
      std::fill_n(weight, kTile, -kInfinity);
      dot_rows(query, k, arguments.k_stride, to, dim, weight);
      const float factor = shape.scale * kLog2e;
      F32x16 highest = splat(maximum_score);
      for (int64_t j = 0; j < kTile; j += 16) {
        const I32x16 index = lane_index() + static_cast<int32_t>(j);
        const I32x16 visible =
            (index >= static_cast<int32_t>(from)) & (index < static_cast<int32_t>(to));
        F32x16 score = load(weight + j) * factor;
        if (bias) {
          for (int64_t lane = 0; lane < 16; ++lane) {
            if (j + lane < from || j + lane >= to) continue;
            score[lane] += bias[key + j + lane - position + shape.distance_offset] * kLog2e;
          }
        }
        score = visible ? score : splat(-kInfinity);
        store(weight + j, score);
        highest = maximum(score, highest);
      }
      const float new_maximum = maximum_of_lanes(highest);
      const float reference = new_maximum == -kInfinity ? 0.0f : new_maximum;
      const float shrink = exp2_of_nonpositive(splat(maximum_score - reference))[0];
      maximum_score = new_maximum;
      F32x16 tile_sum = {};
      for (int64_t j = 0; j < kTile; j += 16) {
        F32x16 p = exp2_of_nonpositive(load(weight + j) - reference);
        tile_sum += p;
        if (shape.dropout_p > 0.0f) {
          for (int64_t lane = 0; lane < 16; ++lane) {
            const auto row = static_cast<uint64_t>(head * shape.total_q + token);
            const auto column = static_cast<uint64_t>(key + j + lane);
            const bool kept =
                philox_uniform(shape.dropout_seed, (row << 20) + column) >= shape.dropout_p;
            p[lane] *= kept ? 1.0f / (1.0f - shape.dropout_p) : 0.0f;
          }
        }
        store(weight + j, round_to<T>(p));
      }
      sum = sum * shrink + sum_of_lanes(tile_sum);
      const T* const v =
          static_cast<const T*>(arguments.v) + first_key * arguments.v_stride + kv_head * dim;
      add_rows(weight, v, arguments.v_stride, to, dim, shrink, out);
    }

    const bool sees_nothing = maximum_score == -kInfinity && sum == 0.0f;
    const float inverse = sees_nothing ? 0.0f : 1.0f / sum;
    T* const to = static_cast<T*>(arguments.out) + (token * shape.num_heads + head) * dim;
    for_vectors(
        dim, [&](int64_t d, auto lanes)
                 __attribute__((always_inline)) { store(to + d, load(out + d) * inverse, lanes); });
    if (arguments.lse) {
      arguments.lse[head * shape.total_q + token] =
          sees_nothing ? -kInfinity : maximum_score * kLn2 + std::log(sum);
    }
  }
}

template void decode<float>(const AttentionForward&, const Sequence&, int64_t);
template void decode<BFloat16>(const AttentionForward&, const Sequence&, int64_t);

}  // namespace engine::kernels::cpu::attention

#pragma GCC diagnostic pop
