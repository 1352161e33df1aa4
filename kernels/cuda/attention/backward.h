// The backward of attention: FlashAttention-2 (Dao 2023), algorithm 2, in kernels without atomics.
//
//   row_sums      D = <dout, out>, per query and head, into the workspace
//   keys          a block owns kRows keys of one kv head and adds up their dk and dv in registers,
//                 over all queries that see them and all query heads of the group. It computes the
//                 transposed scores k · qᵀ: P and dS are then A fragments of the next products.
//   queries       a block owns kRows queries of one head and adds up their dq
//   bias          only for distance_bias with a gradient: backward_bias.h
// Every sum has one owner and one order: the same bits on every run.
//
// Floor: the scores and dP are computed in both kernels, so 7 products of 2 · (visible pairs) ·
// head_dim FLOPs per head instead of the 5 of a backward that adds dq with atomics.
// Above head_dim 128 dk and dv do not fit into registers together: `keys` goes over the
// queries twice, once for each (8 products in all).
#pragma once

#include <type_traits>

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

// --- dk, dv ------------------------------------------------------------------------------------

template <typename T, int kDim, bool kExtras>
__global__ void __launch_bounds__(KeysTiles<T, kDim, kExtras>::kWarps * 32, 1)
    attention_backward_keys_kernel(const BackwardArguments<T> arguments) {
  using Tiles = KeysTiles<T, kDim, kExtras>;
  using Tile = BackwardShared<T, kDim, Tiles>;
  constexpr int kRows = Tiles::kRows, kColumns = Tiles::kColumns, MT = Tiles::MT, NT = kColumns / 8;
  constexpr int kThreads = Tiles::kWarps * kWarp;
  const Problem& problem = arguments.problem;

  // The first keys of a causal sequence are seen by most queries: they come first.
  const int kv_head = static_cast<int>(blockIdx.x) % problem.num_kv_heads;
  const Slot slot = find_slot(problem.cu_seqlens_k, problem.num_sequences, kRows,
                              static_cast<int>(blockIdx.x) / problem.num_kv_heads);
  const Sequence sequence = load_sequence(problem, slot.sequence);
  const int first_key = slot.tile * kRows;
  if (first_key >= sequence.key_span) return;
  const int keys = smaller(kRows, sequence.num_keys - first_key);  // in use; may be negative
  const int dim = problem.head_dim, thread = static_cast<int>(threadIdx.x);
  const int warp_row = warp_index() * 16 * MT;

  // Queries that see some of the keys, and those that see all.
  Range some = {0, 0}, all = {0, 0};
  if (keys > 0) {
    const Range first =
        visible_queries(problem, sequence.num_queries, sequence.offset(), first_key);
    const Range last =
        visible_queries(problem, sequence.num_queries, sequence.offset(), first_key + keys - 1);
    some = {first.begin, last.end};
    all = {last.begin, first.end};
  }
  const int first_tile = some.begin / kColumns;
  const int tiles = some.begin < some.end ? ceil_div(some.end, kColumns) - first_tile : 0;

  const Tile shared;
  if (tiles > 0) {
    const int64_t token = sequence.first_key + first_key;
    load_rows<T, kDim, kRows, kThreads>(shared.row0, thread, dim, arguments.k.aligned,
                                        arguments.k.at(token, kv_head, dim), arguments.k.stride,
                                        keys);
    load_rows<T, kDim, kRows, kThreads>(shared.row1, thread, dim, arguments.v.aligned,
                                        arguments.v.at(token, kv_head, dim), arguments.v.stride,
                                        keys);
  }
  const auto load = [&](int i, int stage) {
    const int head = kv_head * problem.group + i / tiles;
    const int query = (first_tile + i % tiles) * kColumns;
    const int64_t token = sequence.first_query + query;
    const int queries = sequence.num_queries - query;
    load_rows<T, kDim, kColumns, kThreads>(shared.column0 + stage * Tile::kColumnTile, thread, dim,
                                           arguments.q.aligned, arguments.q.at(token, head, dim),
                                           arguments.q.stride, queries);
    load_rows<T, kDim, kColumns, kThreads>(
        shared.column1 + stage * Tile::kColumnTile, thread, dim, arguments.d_out.aligned,
        arguments.d_out.at(token, head, dim), arguments.d_out.stride, queries);
    // Zeros for queries that do not exist: like their rows of q and dout.
    const int64_t at = head * problem.total_q + token + thread;
    if (thread < kColumns) {
      const int to = stage * kColumns + thread;
      copy_async_4(shared.lse + to, arguments.lse + at, thread < queries);
      copy_async_4(shared.row_sums + to, arguments.row_sums + at, thread < queries);
    }
  };

  // Adds to one or both; the other is ignored.
  const auto add_up = [&](auto with_d_v, auto with_d_k, auto& d_v, auto& d_k) {
    stream_tiles<Tiles::kStages>(tiles * problem.group, load, [&](int i, int stage) {
      const int head = kv_head * problem.group + i / tiles;
      const int query = (first_tile + i % tiles) * kColumns;
      const Shared<T> q_tile = shared.column0 + stage * Tile::kColumnTile;
      const Shared<T> d_out_tile = shared.column1 + stage * Tile::kColumnTile;
      float s[MT][NT][4], d_p[MT][NT][4];
      clear(s);
      multiply_by_rows<kDim>(s, shared.row0, warp_row, q_tile);
      const Place place = {first_key + warp_row, query};
      if constexpr (kExtras) scale_and_bias<false>(s, problem, head, sequence.offset(), place);
      if (query < all.begin || query + kColumns > all.end) {
        mask_scores(s, place.row, [&](int key) {
          return visible_queries(problem, sequence.num_queries - query, sequence.offset() + query,
                                 key);
        });
      }
      clear(d_p);
      if constexpr (with_d_k) multiply_by_rows<kDim>(d_p, shared.row1, warp_row, d_out_tile);
      const int first_column = stage * kColumns + 2 * (lane_index() % 4);
      probabilities_and_gradient<T, kExtras, false>(
          s, d_p, problem, dropout_row(problem, head, sequence.first_query + query),
          first_key + warp_row, [&](int, int n, float(&lse)[4], float(&row_sum)[4]) {
            const auto l = load_vector<2>(shared.lse + first_column + 8 * n);
            const auto d = load_vector<2>(shared.row_sums + first_column + 8 * n);
#pragma unroll
            for (int q = 0; q < 4; ++q) {
              lse[q] = usable_lse(l[q & 1]);
              row_sum[q] = d[q & 1];
            }
          });
      if constexpr (with_d_v) multiply_by_columns<kDim>(d_v, s, d_out_tile, shared.weights);
      if constexpr (with_d_k) multiply_by_columns<kDim>(d_k, d_p, q_tile, shared.weights);
    });
  };
  // Keys that are not in use get zeros.
  const auto store_keys = [&](const auto& sum, float scale, const Heads<T>& to, Shared<T> tile) {
    float factor[MT][2];
#pragma unroll
    for (int m = 0; m < MT; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = warp_row + 16 * m + 8 * half + lane_index() / 4;
        factor[m][half] = row < keys ? scale : 0.0f;
      }
    }
    T* const first = to.at(sequence.first_key + first_key, kv_head, dim);
    const int64_t stride = to.stride;
    const int rows = sequence.key_span - first_key;
    store_rows<T, kDim, MT>(
        sum, factor, tile, warp_row, dim, to.aligned, [rows](int row) { return row < rows; },
        [first, stride](int row) { return first + row * stride; });
  };
  using True = std::true_type;
  using False = std::false_type;
  float sum[MT][kDim / 8][4];
  clear(sum);
  // A warp's rows of the tiles are its own: results leave through them.
  if constexpr (Tiles::kPasses == 1) {
    float d_v[MT][kDim / 8][4];
    clear(d_v);
    add_up(True{}, True{}, d_v, sum);
    store_keys(d_v, 1.0f, arguments.d_v, shared.row1);
    store_keys(sum, problem.scale, arguments.d_k, shared.row0);
  } else {
    add_up(False{}, True{}, sum, sum);
    store_keys(sum, problem.scale, arguments.d_k, shared.row1);
    sync_threads();
    clear(sum);
    add_up(True{}, False{}, sum, sum);
    store_keys(sum, 1.0f, arguments.d_v, shared.row0);
  }
}

// --- dq ----------------------------------------------------------------------------------------

template <typename T, int kDim, bool kExtras>
__global__ void __launch_bounds__(QueriesTiles<T, kDim, kExtras>::kWarps * 32, 1)
    attention_backward_queries_kernel(const BackwardArguments<T> arguments) {
  using Tiles = QueriesTiles<T, kDim, kExtras>;
  using Tile = BackwardShared<T, kDim, Tiles>;
  constexpr int kRows = Tiles::kRows, kColumns = Tiles::kColumns, MT = Tiles::MT, NT = kColumns / 8;
  constexpr int kThreads = Tiles::kWarps * kWarp;
  const Problem& problem = arguments.problem;

  const int head = static_cast<int>(blockIdx.x) % problem.num_heads;
  const int slot_index = arguments.slots - 1 - static_cast<int>(blockIdx.x) / problem.num_heads;
  const Slot slot = find_slot(problem.cu_seqlens_q, problem.num_sequences, kRows, slot_index);
  const Sequence sequence = load_sequence(problem, slot.sequence);
  const int first_query = slot.tile * kRows;
  if (first_query >= sequence.num_queries) return;
  const int queries = smaller(kRows, sequence.num_queries - first_query);
  const int kv_head = head / problem.group, dim = problem.head_dim;
  const int thread = static_cast<int>(threadIdx.x), warp_row = warp_index() * 16 * MT;

  const Range first = visible_keys(problem, sequence.num_keys, first_query + sequence.offset());
  const Range last =
      visible_keys(problem, sequence.num_keys, first_query + queries - 1 + sequence.offset());
  const int begin = first.begin / kColumns * kColumns;
  const int tiles = begin < last.end ? ceil_div(last.end - begin, kColumns) : 0;
  const Range all = {last.begin, first.end};

  const Tile shared;
  const int64_t token = sequence.first_query + first_query;
  if (tiles > 0) {
    load_rows<T, kDim, kRows, kThreads>(shared.row0, thread, dim, arguments.q.aligned,
                                        arguments.q.at(token, head, dim), arguments.q.stride,
                                        queries);
    load_rows<T, kDim, kRows, kThreads>(shared.row1, thread, dim, arguments.d_out.aligned,
                                        arguments.d_out.at(token, head, dim),
                                        arguments.d_out.stride, queries);
  }
  float lse[MT][2], row_sum[MT][2];
#pragma unroll
  for (int m = 0; m < MT; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp_row + 16 * m + 8 * half + lane_index() / 4;
      const int64_t at = head * problem.total_q + token + row;
      lse[m][half] = row < queries ? usable_lse(load(arguments.lse + at)) : infinity();
      row_sum[m][half] = row < queries ? load(arguments.row_sums + at) : 0.0f;
    }
  }
  const auto load_keys = [&](int i, int stage) {
    const int key = begin + i * kColumns;
    const int64_t key_token = sequence.first_key + key;
    const int keys = sequence.num_keys - key;
    load_rows<T, kDim, kColumns, kThreads>(
        shared.column0 + stage * Tile::kColumnTile, thread, dim, arguments.k.aligned,
        arguments.k.at(key_token, kv_head, dim), arguments.k.stride, keys);
    load_rows<T, kDim, kColumns, kThreads>(
        shared.column1 + stage * Tile::kColumnTile, thread, dim, arguments.v.aligned,
        arguments.v.at(key_token, kv_head, dim), arguments.v.stride, keys);
  };

  float d_q[MT][kDim / 8][4];
  clear(d_q);
  stream_tiles<Tiles::kStages>(tiles, load_keys, [&](int i, int stage) {
    const int key = begin + i * kColumns;
    const Shared<T> k_tile = shared.column0 + stage * Tile::kColumnTile;
    const Shared<T> v_tile = shared.column1 + stage * Tile::kColumnTile;
    float s[MT][NT][4], d_p[MT][NT][4];
    clear(s);
    multiply_by_rows<kDim>(s, shared.row0, warp_row, k_tile);
    const Place place = {first_query + warp_row, key};
    if constexpr (kExtras) scale_and_bias<true>(s, problem, head, sequence.offset(), place);
    if (key < all.begin || key + kColumns > all.end) {
      mask_scores(s, place.row + sequence.offset() - key, [&](int position) {
        return visible_keys(problem, sequence.num_keys - key, position);
      });
    }
    clear(d_p);
    multiply_by_rows<kDim>(d_p, shared.row1, warp_row, v_tile);
    probabilities_and_gradient<T, kExtras, true>(
        s, d_p, problem, dropout_row(problem, head, sequence.first_query + first_query + warp_row),
        key, [&](int m, int, float(&l)[4], float(&d)[4]) {
#pragma unroll
          for (int q = 0; q < 4; ++q) {
            l[q] = lse[m][q >> 1];
            d[q] = row_sum[m][q >> 1];
          }
        });
    multiply_by_columns<kDim>(d_q, d_p, k_tile, shared.weights);
  });

  float factor[MT][2];
#pragma unroll
  for (int m = 0; m < MT; ++m) factor[m][0] = factor[m][1] = problem.scale;
  T* const first_row = arguments.d_q.at(token, head, dim);
  const int64_t stride = arguments.d_q.stride;
  store_rows<T, kDim, MT>(
      d_q, factor, shared.row0, warp_row, dim, arguments.d_q.aligned,
      [queries](int row) { return row < queries; },
      [first_row, stride](int row) { return first_row + row * stride; });
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

template <typename T, int kDim, bool kExtras>
void launch_backward_keys(const Stream& stream, const BackwardArguments<T>& arguments) {
  using Tiles = KeysTiles<T, kDim, kExtras>;
  const Problem& problem = arguments.problem;
  const int64_t slots = count_slots(arguments.total_k, problem.num_sequences, Tiles::kRows);
  launch(stream, "attention_backward_keys", attention_backward_keys_kernel<T, kDim, kExtras>,
         {.grid = {static_cast<unsigned>(slots * problem.num_kv_heads)},
          .block = {Tiles::kWarps * kWarp},
          .shared_bytes = BackwardShared<T, kDim, Tiles>::bytes()},
         arguments);
}

template <typename T, int kDim, bool kExtras>
void launch_backward_queries(const Stream& stream, BackwardArguments<T> arguments) {
  using Tiles = QueriesTiles<T, kDim, kExtras>;
  const Problem& problem = arguments.problem;
  const int64_t slots = count_slots(problem.total_q, problem.num_sequences, Tiles::kRows);
  arguments.slots = static_cast<int>(slots);
  launch(stream, "attention_backward_queries", attention_backward_queries_kernel<T, kDim, kExtras>,
         {.grid = {static_cast<unsigned>(slots * problem.num_heads)},
          .block = {Tiles::kWarps * kWarp},
          .shared_bytes = BackwardShared<T, kDim, Tiles>::bytes()},
         arguments);
}

// The instances for this head_dim and these options, one file each (backward_fp32.cu: both). First
// row_sums, which the others read.
void backward_keys(const Stream& stream, const BackwardArguments<BFloat16>& arguments);
void backward_keys(const Stream& stream, const BackwardArguments<float>& arguments);
void backward_queries(const Stream& stream, const BackwardArguments<BFloat16>& arguments);
void backward_queries(const Stream& stream, const BackwardArguments<float>& arguments);

}  // namespace engine::kernels::ENGINE_GPU::attention
