// dq: a block owns queries (backward.h).
#pragma once

#include "kernels/cuda/attention/backward.h"

namespace engine::kernels::ENGINE_GPU::attention {

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

}  // namespace engine::kernels::ENGINE_GPU::attention
