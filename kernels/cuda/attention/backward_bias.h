// The gradient of distance_bias: sums of dS along diagonals, of all sequences.
//
// With tiles of kRows positions by kRows keys, the tiles whose distance is `band` tiles hold
// 2 kRows - 1 diagonals. A block owns one band of one head, and goes over those tiles of all
// sequences (of every eighth one, if there are many): it computes dS again, and a thread has a
// diagonal. So sums need no atomics and a workspace the size of the bias. A second kernel adds the
// two bands that share each diagonal. Positions, not queries, are tiled: a diagonal is then the
// same in all sequences.
//
// Floor: the scores and dP of all visible pairs, 4 · head_dim FLOPs each. It is not pipelined:
// models with trained distance biases are short.
#pragma once

#include "kernels/cuda/attention/backward.h"

namespace engine::kernels::ENGINE_GPU::attention {

template <typename T, int kDim>
struct BiasTiles {
  static constexpr int kWarps = 4, kRows = 64, kStages = 1;
  static constexpr int kColumns = kDim <= 64 ? 64 : kDim <= 128 ? 32 : 16;
};
template <int kDim>
struct BiasTiles<float, kDim> {
  static constexpr int kWarps = kDim <= 64 ? 4 : 2, kRows = 16 * kWarps, kStages = 1;
  static constexpr int kColumns = kDim <= 128 ? 32 : 8;
};

// Rows of a tile, for the workspace: as BiasTiles.
inline int bias_tile_rows(DType dtype, int head_dim) {
  return dtype == DType::f32 && head_dim > 64 ? 32 : 64;
}

// bias_sums: [part][head][band][2 rows].
struct BiasBands {
  int rows, first, count, parts;

  BiasBands(const Problem& problem, int tile_rows)
      : rows(tile_rows),
        first(floor_div(-problem.distance_offset, tile_rows)),
        count(floor_div(problem.distance_count - 1 - problem.distance_offset, tile_rows) + 2 -
              first),
        parts(problem.num_sequences < 8 ? problem.num_sequences : 8) {}
  size_t bytes(const Problem& problem) const {
    return static_cast<size_t>(parts) * static_cast<size_t>(problem.num_heads) *
           static_cast<size_t>(count) * static_cast<size_t>(2 * rows) * sizeof(float);
  }
  static int floor_div(int a, int b) { return a / b - (a % b < 0 ? 1 : 0); }
};

template <typename T, int kDim>
__global__ void __launch_bounds__(BiasTiles<T, kDim>::kWarps * 32, 1)
    attention_bias_kernel(const BackwardArguments<T> arguments, const BiasBands bands) {
  using Tiles = BiasTiles<T, kDim>;
  using Tile = BackwardShared<T, kDim, Tiles>;
  constexpr int kRows = Tiles::kRows, kColumns = Tiles::kColumns, NT = kColumns / 8;
  constexpr int kThreads = Tiles::kWarps * kWarp, kStride = kColumns + 1;
  static_assert(kThreads == 2 * kRows && kRows % kColumns == 0);
  const Problem& problem = arguments.problem;

  int index = static_cast<int>(blockIdx.x);
  const int64_t out = int64_t{index} * 2 * kRows;
  const int band = index % bands.count + bands.first;
  index /= bands.count;
  const int head = index % problem.num_heads, part = index / problem.num_heads;
  const int kv_head = head / problem.group, dim = problem.head_dim;
  const int thread = static_cast<int>(threadIdx.x), warp_row = warp_index() * 16;
  const int g = lane_index() / 4, t = lane_index() % 4;
  const int diagonal = thread - (kRows - 1);  // key - position, within the tile

  const Tile shared;
  const Shared<float> d_scores = shared.end();
  float sum = 0.0f;
  for (int s = part; s < problem.num_sequences; s += bands.parts) {
    const Sequence sequence = load_sequence(problem, s);
    const int offset = sequence.offset();
    const int key_tiles = ceil_div(larger(0, sequence.num_keys), kRows);
    // Tiles of positions; the first query may be at a negative one.
    const int first_tile = offset >= 0 ? offset / kRows : -ceil_div(-offset, kRows);
    const int begin = larger(first_tile, -band);
    const int end = smaller(ceil_div(sequence.num_keys, kRows), key_tiles - band);
    for (int position_tile = begin; position_tile < end; ++position_tile) {
      const int first_position = position_tile * kRows, key_tile = first_position + band * kRows;
      if (problem.causal && key_tile > first_position + kRows - 1) continue;
      if (problem.window > 0 && key_tile + kRows <= first_position - problem.window + 1) continue;
      const int first_query = first_position - offset;
      const int64_t token = int64_t{sequence.first_query} + first_query;
      const auto exists = [&](int row) {
        return first_query + row >= 0 && first_query + row < sequence.num_queries;
      };
      const auto load_queries = [&](Shared<T> tile, const Heads<T>& from) {
        load_tile<T, kDim, kRows, kThreads>(tile, thread, dim, from.aligned, exists, [&](int row) {
          return from.at(exists(row) ? token + row : 0, head, dim);
        });
      };
      sync_threads();  // the tiles before have been read
      load_queries(shared.row0, arguments.q);
      load_queries(shared.row1, arguments.d_out);
      float lse[2], row_sum[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = warp_row + 8 * half + g;
        const int64_t at = head * problem.total_q + token + row;
        lse[half] = exists(row) ? usable_lse(load(arguments.lse + at)) : infinity();
        row_sum[half] = exists(row) ? load(arguments.row_sums + at) : 0.0f;
      }
#pragma unroll 1
      for (int column = 0; column < kRows; column += kColumns) {
        const int key = key_tile + column;
        const int64_t key_token = int64_t{sequence.first_key} + key;
        const int keys = sequence.num_keys - key;
        if (keys <= 0) break;
        load_rows<T, kDim, kColumns, kThreads>(shared.column0, thread, dim, arguments.k.aligned,
                                               arguments.k.at(key_token, kv_head, dim),
                                               arguments.k.stride, keys);
        load_rows<T, kDim, kColumns, kThreads>(shared.column1, thread, dim, arguments.v.aligned,
                                               arguments.v.at(key_token, kv_head, dim),
                                               arguments.v.stride, keys);
        copy_async_commit_group();
        copy_async_wait_group<0>();
        sync_threads();
        float scores[1][NT][4], d_p[1][NT][4];
        clear(scores);
        multiply_by_rows<kDim>(scores, shared.row0, warp_row, shared.column0);
        scale_and_bias<true>(scores, problem, head, offset, {first_query + warp_row, key});
        mask_scores(scores, first_position + warp_row - key,
                    [&](int position) { return visible_keys(problem, keys, position); });
        clear(d_p);
        multiply_by_rows<kDim>(d_p, shared.row1, warp_row, shared.column1);
        probabilities_and_gradient<T, true, true>(
            scores, d_p, problem,
            dropout_row(problem, head, sequence.first_query + first_query + warp_row), key,
            [&](int, int, float(&l)[4], float(&d)[4]) {
#pragma unroll
              for (int q = 0; q < 4; ++q) {
                l[q] = lse[q >> 1];
                d[q] = row_sum[q >> 1];
              }
            });
#pragma unroll
        for (int n = 0; n < NT; ++n) {
#pragma unroll
          for (int q = 0; q < 4; ++q) {
            store(d_scores + (warp_row + g + 8 * (q >> 1)) * kStride + 8 * n + 2 * t + (q & 1),
                  d_p[0][n][q]);
          }
        }
        sync_threads();
        const int last_row = smaller(kRows, column + kColumns - diagonal);
#pragma unroll 1
        for (int row = larger(0, column - diagonal); row < last_row; ++row) {
          sum += load(d_scores + (row * kStride + row + diagonal - column));
        }
      }
    }
  }
  store(arguments.bias_sums + out + thread, sum);
}

// The instance for this head_dim: backward_bias.cu.
void bias_gradient(const Stream& stream, const BackwardArguments<BFloat16>& arguments);
void bias_gradient(const Stream& stream, const BackwardArguments<float>& arguments);

}  // namespace engine::kernels::ENGINE_GPU::attention
