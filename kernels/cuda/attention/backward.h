// The backward of attention: FlashAttention-2 (Dao 2023), algorithm 2, in kernels without atomics.
//
//   row_sums      D = <dout, out>, per query and head, into the workspace
//   keys          backward_keys.h: a block owns kRows keys of one kv head and adds up their dk and
//                 dv in registers, over all queries that see them and all query heads of the group.
//                 It computes the transposed scores k · qᵀ: P and dS are then A fragments of the
//                 next products.
//   queries       backward_queries.h: a block owns kRows queries of one head and adds up their dq
//   bias          only for distance_bias with a gradient: backward_bias.h
// Every sum has one owner and one order: the same bits on every run.
//
// Floor: the scores and dP are computed in both kernels, so 7 products of 2 · (visible pairs) ·
// head_dim FLOPs per head instead of the 5 of a backward that adds dq with atomics.
// Above head_dim 128 dk and dv do not fit into registers together: `keys` goes over the
// queries twice, once for each (8 products in all).
#pragma once

#include "kernels/cuda/attention/score.h"
#include "kernels/cuda/attention/tile.h"
#include "kernels/cuda/device/launch.h"

namespace engine::kernels::ENGINE_GPU::attention {

template <typename T>
struct BackwardArguments {
  Problem problem;
  Heads<T> q, k, v, out, d_out, d_q, d_k, d_v;
  const float* lse;
  float* row_sums;  // D; [num_heads, total_q], as lse
  float* d_bias;    // or null
  float* bias_sums;
  int64_t total_k;
  int slots;
};

// Rows are what a block owns, 16 MT per warp; columns what streams by. Two stages where 99 KB of
// shared memory allow. MT = 2 reads shared memory half as often, if the sums fit into registers,
// with the most columns that do: of 255 registers, keys take MT · head_dim for dk and dv (queries
// half of that for dq), scores and dP MT · columns.
template <typename T, int kDim, bool kExtras>
struct KeysTiles {
  static constexpr bool kLarge = kDim > 128;
  static constexpr int kWarps = 4, MT = kDim <= 64 && !kExtras ? 2 : 1, kRows = 16 * MT * kWarps;
  static constexpr int kColumns = (kLarge                  ? 32
                                   : kDim == 64 && MT == 2 ? 32
                                                           : 64) /
                                  (kDim >= 128 && kExtras ? 2 : 1);
  static constexpr int kStages = kLarge ? 1 : 2, kPasses = kLarge ? 2 : 1;
};
template <typename T, int kDim, bool kExtras>
struct QueriesTiles {
  static constexpr bool kLarge = kDim > 128;
  static constexpr int kWarps = 4, MT = kDim < 128 || (!kLarge && !kExtras) ? 2 : 1;
  static constexpr int kRows = 16 * MT * kWarps;
  static constexpr int kColumns = kDim == 32 ? 64 : kLarge && kExtras ? 16 : 32;
  static constexpr int kStages = kLarge ? 1 : 2;
};
template <int kDim, bool kExtras>
struct KeysTiles<float, kDim, kExtras> {
  static constexpr int kWarps = kDim <= 64 ? 4 : 2, MT = 1, kRows = 16 * kWarps;
  static constexpr int kColumns = kDim <= 128 ? 32 : 8, kStages = 1;
  static constexpr int kPasses = kDim <= 128 ? 1 : 2;
};
template <int kDim, bool kExtras>
struct QueriesTiles<float, kDim, kExtras> : KeysTiles<float, kDim, kExtras> {};

// Two tiles of rows, two streams of tiles of columns, lse and D of the columns.
template <typename T, int kDim, typename Tiles>
struct BackwardShared {
  static constexpr int kRowTile = tile_size<T, kDim>(Tiles::kRows);
  static constexpr int kColumnTile = tile_size<T, kDim>(Tiles::kColumns);
  Shared<T> row0, row1, column0, column1;
  Shared<float> lse, row_sums, weights;

  ENGINE_DEVICE BackwardShared() {
    SharedMemory memory;
    row0 = memory.take<T>(kRowTile, 128);
    row1 = memory.take<T>(kRowTile, 128);
    column0 = memory.take<T>(Tiles::kStages * kColumnTile, 128);
    column1 = memory.take<T>(Tiles::kStages * kColumnTile, 128);
    lse = memory.take<float>(Tiles::kStages * Tiles::kColumns);
    row_sums = memory.take<float>(Tiles::kStages * Tiles::kColumns);
    weights = memory.take<float>(weights_size<T>(Tiles::kWarps, Tiles::kColumns)) +
              warp_index() * weights_size<T>(1, Tiles::kColumns);
  }
  // What lies behind all that.
  ENGINE_DEVICE Shared<float> end() const {
    return weights + (Tiles::kWarps - warp_index()) * weights_size<T>(1, Tiles::kColumns);
  }
  static size_t bytes() {
    return SharedSize()
        .take<T>(kRowTile, 128)
        .template take<T>(kRowTile, 128)
        .template take<T>(Tiles::kStages * kColumnTile, 128)
        .template take<T>(Tiles::kStages * kColumnTile, 128)
        .template take<float>(Tiles::kStages * Tiles::kColumns)
        .template take<float>(Tiles::kStages * Tiles::kColumns)
        .template take<float>(weights_size<T>(Tiles::kWarps, Tiles::kColumns))
        .bytes();
  }
};

// D. `lanes` (a power of two) lanes per row, 8 elements each at a time.
template <typename T>
__global__ void __launch_bounds__(256)
    attention_row_sums_kernel(const BackwardArguments<T> arguments, const int lanes) {
  const Problem& problem = arguments.problem;
  const int rows_per_warp = kWarp / lanes, lane = lane_index();
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + warp_index();
  const int64_t row = warp * rows_per_warp + lane / lanes;  // token · num_heads + head
  const bool exists = row < problem.total_q * problem.num_heads;
  const int64_t token = exists ? row / problem.num_heads : 0;
  const int head = exists ? static_cast<int>(row % problem.num_heads) : 0;
  const T* const out = arguments.out.at(token, head, problem.head_dim);
  const T* const d_out = arguments.d_out.at(token, head, problem.head_dim);
  const bool aligned = arguments.out.aligned && arguments.d_out.aligned;
  constexpr int N = kVectorWidth<T>;
  float sum = 0.0f;
  for (int column = lane % lanes * N; exists && column < problem.head_dim; column += lanes * N) {
    if (aligned) {
      const auto x = load_once<N>(out + column);
      const auto y = load_once<N>(d_out + column);
#pragma unroll
      for (int j = 0; j < N; ++j) sum += to_float(x[j]) * to_float(y[j]);
    } else {
      for (int j = column; j < smaller(column + N, problem.head_dim); ++j) {
        sum += to_float(load(out + j)) * to_float(load(d_out + j));
      }
    }
  }
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const float other = shuffle_xor(sum, mask);
    if (mask < lanes) sum += other;
  }
  if (exists && lane % lanes == 0) {
    store(arguments.row_sums + head * problem.total_q + token, sum);
  }
}

// compute(i, stage) for i in [0, count), on what load(i, stage) has brought; with two stages the
// next one is on its way meanwhile.
template <int kStages, typename Load, typename Compute>
ENGINE_DEVICE void stream_tiles(int count, const Load& load, const Compute& compute) {
  if (count > 0) load(0, 0);
  copy_async_commit_group();
#pragma unroll 1
  for (int i = 0; i < count; ++i) {
    const int stage = kStages == 2 ? i & 1 : 0;
    copy_async_wait_group<0>();
    sync_threads();
    if (kStages == 2) {
      if (i + 1 < count) load(i + 1, stage ^ 1);
      copy_async_commit_group();
    }
    compute(i, stage);
    if (kStages == 1 && i + 1 < count) {
      sync_threads();
      load(i + 1, 0);
      copy_async_commit_group();
    }
  }
}

// Scores s and dP become P · dropout and dS. statistics(m, n, lse, row_sum) gives lse and D of the
// four elements of a fragment.
template <typename T, bool kExtras, bool by_query, int MT, int NT, typename Statistics>
ENGINE_DEVICE void probabilities_and_gradient(float (&s)[MT][NT][4], float (&d_p)[MT][NT][4],
                                              const Problem& problem, uint64_t first_dropout_row,
                                              int first_key, const Statistics& statistics) {
  const float log2_factor = kExtras ? kLog2E : problem.scale * kLog2E;
#pragma unroll
  for (int n = 0; n < NT; ++n) {
#pragma unroll
    for (int m = 0; m < MT; ++m) {
      float lse[4], row_sum[4], factor[4] = {1.0f, 1.0f, 1.0f, 1.0f};
      statistics(m, n, lse, row_sum);
      if constexpr (kExtras) {
        if (problem.dropout_p > 0.0f) {
          dropout_factors<by_query>(factor, problem,
                                    first_dropout_row + (by_query ? 16 * m : 8 * n),
                                    first_key + (by_query ? 8 * n : 16 * m));
        }
      }
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        float p;
        if constexpr (sizeof(T) == 2) {
          p = exp2_approx(s[m][n][q] * log2_factor - lse[q] * kLog2E);
        } else {
          p = exp2_approx((s[m][n][q] - lse[q]) * kLog2E);  // exactly 1 for a single key
        }
        s[m][n][q] = p * factor[q];
        d_p[m][n][q] = p * (d_p[m][n][q] * factor[q] - row_sum[q]);
      }
    }
  }
}

// A query that sees no key has lse -inf: +inf makes its probabilities 0.
ENGINE_DEVICE float usable_lse(float lse) {
  return lse == -infinity() ? infinity() : lse;
}

// --- Starting them -----------------------------------------------------------------------------

template <typename T>
void launch_row_sums(const Stream& stream, const BackwardArguments<T>& arguments) {
  const Problem& problem = arguments.problem;
  int lanes = 1;
  while (lanes < kWarp && lanes * kVectorWidth<T> < problem.head_dim) lanes *= 2;
  const int64_t rows = problem.total_q * problem.num_heads;
  const int64_t blocks = ceil_div<int64_t>(rows, 256 / lanes);
  launch(stream, "attention_row_sums", attention_row_sums_kernel<T>,
         {.grid = {static_cast<unsigned>(blocks)}, .block = {256}}, arguments, lanes);
}

// The instances for this head_dim and these options, one file each (backward_fp32.cu: both). First
// row_sums, which the others read.
void backward_keys(const Stream& stream, const BackwardArguments<BFloat16>& arguments);
void backward_keys(const Stream& stream, const BackwardArguments<float>& arguments);
void backward_queries(const Stream& stream, const BackwardArguments<BFloat16>& arguments);
void backward_queries(const Stream& stream, const BackwardArguments<float>& arguments);

}  // namespace engine::kernels::ENGINE_GPU::attention
