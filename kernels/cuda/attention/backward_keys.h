// dk and dv: a block owns keys (backward.h).
#pragma once

#include <type_traits>

#include "kernels/cuda/attention/backward.h"

namespace engine::kernels::ENGINE_GPU::attention {

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

}  // namespace engine::kernels::ENGINE_GPU::attention
