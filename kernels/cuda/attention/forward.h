// The forward of attention: FlashAttention-2 (Dao 2023), algorithm 1.
//
// A block has `kRows` queries of one head, a warp 16 MT of them. It walks over the keys that its
// queries see, kColumns at a time: scores by mma, online softmax in base 2, probabilities as the A
// fragments of the second product. K and V have one buffer each: the next K arrives during softmax
// and P·V, V during Q·Kᵀ. Long blocks first: the last queries of a causal sequence see most keys.
//
// Floor: 4 · (visible pairs) · head_dim FLOPs per head, plus an exponential per visible pair (1/16
// of the rate of a multiply-add). K and V of a kv head are read once per block of queries, from L2
// when its sequence fits.
#pragma once

#include "kernels/cuda/attention/score.h"
#include "kernels/cuda/attention/tile.h"
#include "kernels/cuda/device/launch.h"

namespace engine::kernels::ENGINE_GPU::attention {

template <typename T>
struct ForwardArguments {
  Problem problem;
  Heads<T> q, k, v, out;
  float* lse;  // or null
  int64_t total_k;
  int slots;
};

// Tiles of each padded head_dim. Shared memory stays below 99 KB: every GPU from sm_80 on.
template <typename T, int kDim, bool kExtras>
struct ForwardTiles {
  static constexpr int kWarps = 4, MT = kDim <= 128 ? 2 : 1;
  // 64 where that needs no more than 255 registers.
  static constexpr int kColumns = kExtras && kDim >= 96 ? 32 : 64;
};
template <int kDim, bool kExtras>
struct ForwardTiles<float, kDim, kExtras> {
  static constexpr int kWarps = kDim <= 128 ? 4 : 2, MT = 1, kColumns = kDim <= 128 ? 32 : 16;
};

// Row `half` of fragments m. Maxima grow rarely once a row has seen some keys.
template <int MT, int OT>
ENGINE_DEVICE void rescale_row(float (&o)[MT][OT][4], int m, int half, float factor) {
  if (ballot(factor != 1.0f) == 0) return;
#pragma unroll
  for (int n = 0; n < OT; ++n) {
    o[m][n][2 * half] *= factor;
    o[m][n][2 * half + 1] *= factor;
  }
}

// Running maximum and sum of a warp's rows, and the softmax of one tile of scores.
template <typename T, int MT>
struct OnlineSoftmax {
  float maximum[MT][2], sum[MT][2];  // sum: of this lane's columns

  ENGINE_DEVICE OnlineSoftmax() {
#pragma unroll
    for (int m = 0; m < MT; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        maximum[m][half] = -infinity();
        sum[m][half] = 0.0f;
      }
    }
  }

  // s becomes e^(factor · (s - maximum)); accumulated values are rescaled to the new maximum.
  template <int NT, int OT>
  ENGINE_DEVICE void add(float (&s)[MT][NT][4], float (&o)[MT][OT][4], float log2_factor) {
    add_with(s, log2_factor,
             [&](int m, int half, float factor) { rescale_row(o, m, half, factor); });
  }
  // The same with rescale(m, half, factor) called for each row instead, in uniform control flow.
  template <int NT, typename Rescale>
  ENGINE_DEVICE void add_with(float (&s)[MT][NT][4], float log2_factor, const Rescale& rescale_of) {
#pragma unroll
    for (int m = 0; m < MT; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float largest = maximum[m][half];
#pragma unroll
        for (int n = 0; n < NT; ++n) {
          largest = fmaxf(largest, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
        }
        largest = warp_max<4>(largest);
        // A row that has seen no key yet: -inf - -inf would be NaN.
        const float zero = largest == -infinity() ? 0.0f : largest;
        const float rescale = exp_of_difference<float>(maximum[m][half], zero, log2_factor);
        maximum[m][half] = largest;
        float total = sum[m][half] * rescale;
#pragma unroll
        for (int n = 0; n < NT; ++n) {
#pragma unroll
          for (int column = 0; column < 2; ++column) {
            float& x = s[m][n][2 * half + column];
            x = exp_of_difference<T>(x, zero, log2_factor);
            total += x;
          }
        }
        sum[m][half] = total;
        rescale_of(m, half, rescale);
      }
    }
  }
  // Sums over all columns, to all lanes.
  ENGINE_DEVICE void finish() {
#pragma unroll
    for (int m = 0; m < MT; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) sum[m][half] = warp_sum<4>(sum[m][half]);
    }
  }
};

// kExtras: bias, dropout, and a scale that is not positive. fp32 kernels always have them.
template <typename T, int kDim, bool kExtras>
__global__ void __launch_bounds__(ForwardTiles<T, kDim, kExtras>::kWarps * 32, 1)
    attention_forward_kernel(const ForwardArguments<T> arguments) {
  using Tiles = ForwardTiles<T, kDim, kExtras>;
  constexpr int MT = Tiles::MT, NT = Tiles::kColumns / 8, kColumns = Tiles::kColumns;
  constexpr int kThreads = Tiles::kWarps * kWarp, kRows = 16 * MT * Tiles::kWarps;
  const Problem& problem = arguments.problem;

  const int head = static_cast<int>(blockIdx.x) % problem.num_heads;
  const int slot_index = arguments.slots - 1 - static_cast<int>(blockIdx.x) / problem.num_heads;
  const Slot slot = find_slot(problem.cu_seqlens_q, problem.num_sequences, kRows, slot_index);
  const Sequence sequence = load_sequence(problem, slot.sequence);
  const int first_query = slot.tile * kRows;
  if (first_query >= sequence.num_queries) return;
  const int queries = smaller(kRows, sequence.num_queries - first_query);
  const int kv_head = head / problem.group, dim = problem.head_dim;

  SharedMemory memory;
  const Shared<T> q_tile = memory.take<T>(tile_size<T, kDim>(kRows), 128);
  const Shared<T> k_tile = memory.take<T>(tile_size<T, kDim>(kColumns), 128);
  const Shared<T> v_tile = memory.take<T>(tile_size<T, kDim>(kColumns), 128);
  const Shared<float> weights = memory.take<float>(weights_size<T>(Tiles::kWarps, kColumns)) +
                                warp_index() * weights_size<T>(1, kColumns);

  // Keys that some of the queries see, and those that all of them see.
  const Range first_sees =
      visible_keys(problem, sequence.num_keys, first_query + sequence.offset());
  const Range last_sees =
      visible_keys(problem, sequence.num_keys, first_query + queries - 1 + sequence.offset());
  const int begin = first_sees.begin / kColumns * kColumns, end = last_sees.end;
  const Range all_see = {last_sees.begin, first_sees.end};

  const int thread = static_cast<int>(threadIdx.x);
  const auto load_keys = [&](Shared<T> tile, const Heads<T>& from, int key) {
    load_rows<T, kDim, kColumns, kThreads>(tile, thread, dim, from.aligned,
                                           from.at(sequence.first_key + key, kv_head, dim),
                                           from.stride, sequence.num_keys - key);
    copy_async_commit_group();
  };
  if (begin < end) {
    load_rows<T, kDim, kRows, kThreads>(
        q_tile, thread, dim, arguments.q.aligned,
        arguments.q.at(sequence.first_query + first_query, head, dim), arguments.q.stride, queries);
    load_keys(k_tile, arguments.k, begin);
  }

  const int lane = lane_index(), g = lane / 4;
  const int warp_row = warp_index() * 16 * MT;
  // Scores are s in natural units after scale_and_bias, else before the scale.
  const float log2_factor = kExtras ? kLog2E : problem.scale * kLog2E;
  OnlineSoftmax<T, MT> softmax;
  float out[MT][kDim / 8][4];
  clear(out);
  for (int key = begin; key < end; key += kColumns) {
    copy_async_wait_group<0>();
    sync_threads();  // K is here, and V has been read
    load_keys(v_tile, arguments.v, key);
    float s[MT][NT][4];
    clear(s);
    multiply_by_rows<kDim>(s, q_tile, warp_row, k_tile);
    copy_async_wait_group<0>();
    sync_threads();  // V is here, and K has been read
    if (key + kColumns < end) load_keys(k_tile, arguments.k, key + kColumns);
    const Place place = {first_query + warp_row, key};
    if constexpr (kExtras) scale_and_bias<true>(s, problem, head, sequence.offset(), place);
    if (key < all_see.begin || key + kColumns > all_see.end) {
      mask_scores(s, place.row + sequence.offset() - key, [&](int position) {
        return visible_keys(problem, sequence.num_keys - key, position);
      });
    }
    softmax.add(s, out, log2_factor);
    if constexpr (kExtras) {
      if (problem.dropout_p > 0.0f) {
        const uint64_t row =
            dropout_row(problem, head, sequence.first_query + first_query + warp_row);
#pragma unroll
        for (int m = 0; m < MT; ++m) {
#pragma unroll
          for (int n = 0; n < NT; ++n) {
            float factor[4];
            dropout_factors<true>(factor, problem, row + 16 * m, key + 8 * n);
#pragma unroll
            for (int q = 0; q < 4; ++q) s[m][n][q] *= factor[q];
          }
        }
      }
    }
    multiply_by_columns<kDim>(out, s, v_tile, weights);
  }

  softmax.finish();
  float inverse[MT][2];
#pragma unroll
  for (int m = 0; m < MT; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = softmax.sum[m][half];
      inverse[m][half] = sum == 0.0f ? 0.0f : 1.0f / sum;
      const int row = warp_row + 16 * m + 8 * half + g;
      if (arguments.lse && lane % 4 == 0 && row < queries) {
        const float maximum = softmax.maximum[m][half] * (kExtras ? 1.0f : problem.scale);
        store(arguments.lse + head * problem.total_q + sequence.first_query + first_query + row,
              sum == 0.0f ? -infinity() : maximum + logf(sum));
      }
    }
  }
  T* const first_out = arguments.out.at(sequence.first_query + first_query, head, dim);
  const int64_t stride = arguments.out.stride;
  store_rows<T, kDim, MT>(
      out, inverse, q_tile, warp_row, dim, arguments.out.aligned,
      [queries](int row) { return row < queries; },
      [first_out, stride](int row) { return first_out + row * stride; });
}

template <typename T, int kDim, bool kExtras>
void launch_forward(const Stream& stream, ForwardArguments<T> arguments) {
  using Tiles = ForwardTiles<T, kDim, kExtras>;
  constexpr int kRows = 16 * Tiles::MT * Tiles::kWarps;
  const Problem& problem = arguments.problem;
  const int64_t slots = count_slots(problem.total_q, problem.num_sequences, kRows);
  arguments.slots = static_cast<int>(slots);
  const size_t shared = SharedSize()
                            .take<T>(tile_size<T, kDim>(kRows), 128)
                            .template take<T>(tile_size<T, kDim>(Tiles::kColumns), 128)
                            .template take<T>(tile_size<T, kDim>(Tiles::kColumns), 128)
                            .template take<float>(weights_size<T>(Tiles::kWarps, Tiles::kColumns))
                            .bytes();
  launch(stream, "attention_forward", attention_forward_kernel<T, kDim, kExtras>,
         {.grid = {static_cast<unsigned>(slots * problem.num_heads)},
          .block = {Tiles::kWarps * kWarp},
          .shared_bytes = shared},
         arguments);
}

// The instance for this head_dim and these options: forward_bf16.cu, forward_fp32.cu.
void forward(const Stream& stream, const ForwardArguments<BFloat16>& arguments);
void forward(const Stream& stream, const ForwardArguments<float>& arguments);
// The same on Hopper: forward_wgmma.cu. False, and nothing done, for what it does not take.
bool forward_wgmma(const Stream& stream, const ForwardArguments<BFloat16>& arguments);

}  // namespace engine::kernels::ENGINE_GPU::attention
