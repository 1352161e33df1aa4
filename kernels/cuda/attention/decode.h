// The forward for few queries against many keys: generation from a cache.
//
// The query heads of a group read the same keys, so a block takes all of them: rows are (query,
// head of the group), 16 to a block, which is one fragment of mma. Keys are cut into chunks of 256
// from the start of the sequence; a block has one chunk of one kv head, its warps go over a part of
// it each, independently. They are put together in order: the warps in shared memory, the chunks by
// a second kernel. Where a chunk begins depends on nothing, so neither do the bits of a sequence on
// the others in the batch or on the number of multiprocessors.
//
// Floor: the keys and values in use, read once: 2 · keys · num_kv_heads · head_dim elements, at the
// rate of device memory. Every warp has a tile of keys and one of values on their way, 8 KB each at
// head_dim 128 in bf16: 64 KB per block, and three blocks to a multiprocessor of Hopper.
#pragma once

#include "kernels/cuda/attention/forward.h"

namespace engine::kernels::ENGINE_GPU::attention {

inline constexpr int kDecodeChunk = 256;  // keys
inline constexpr int kDecodeRows = 16;

template <typename T>
struct DecodeArguments {
  ForwardArguments<T> forward;
  float* parts;      // [sequence, kv head, chunk, row, head_dim + 2]: sums, maximum, sum of weights
  int chunks, rows;  // most of any sequence
};

template <typename T, int kDim>
struct DecodeTiles {
  static constexpr int kWarps = 4, kColumns = kDim <= 128 ? 32 : 16;
};
template <int kDim>
struct DecodeTiles<float, kDim> {
  static constexpr int kWarps = kDim <= 128 ? 4 : 2, kColumns = 16;
};

// Chunks [begin, end) that the queries of a sequence see; one at least.
ENGINE_DEVICE Range visible_chunks(const Problem& problem, const Sequence& sequence) {
  const Range first = visible_keys(problem, sequence.num_keys, sequence.offset());
  const Range last = visible_keys(problem, sequence.num_keys, sequence.num_keys - 1);
  if (first.begin >= last.end) return {0, 1};
  return {first.begin / kDecodeChunk, ceil_div(last.end, kDecodeChunk)};
}

template <typename T>
ENGINE_DEVICE float* part_of(const DecodeArguments<T>& arguments, int sequence, int kv_head,
                             int chunk, int row) {
  const Problem& problem = arguments.forward.problem;
  const int64_t index =
      ((int64_t{sequence} * problem.num_kv_heads + kv_head) * arguments.chunks + chunk) *
          arguments.rows +
      row;
  return arguments.parts + index * (problem.head_dim + 2);
}

// Where the output of a row goes.
template <typename T>
ENGINE_DEVICE void store_result(const ForwardArguments<T>& arguments, int64_t token, int head,
                                int column, float value) {
  store(arguments.out.at(token, head, arguments.problem.head_dim) + column, from_float<T>(value));
}
template <typename T>
ENGINE_DEVICE void store_lse(const ForwardArguments<T>& arguments, int64_t token, int head,
                             float maximum, float sum) {
  if (!arguments.lse) return;
  store(arguments.lse + head * arguments.problem.total_q + token,
        sum == 0.0f ? -infinity() : maximum * arguments.problem.scale + logf(sum));
}
// What a part with this maximum is multiplied by, when the maximum of all is `largest`.
ENGINE_DEVICE float part_weight(float maximum, float largest, float log2_factor) {
  return maximum == -infinity() ? 0.0f : exp_of_difference<float>(maximum, largest, log2_factor);
}

template <typename T, int kDim>
__global__ void __launch_bounds__(DecodeTiles<T, kDim>::kWarps * 32, 1)
    attention_decode_kernel(const DecodeArguments<T> decode) {
  using Tiles = DecodeTiles<T, kDim>;
  constexpr int kWarps = Tiles::kWarps, kColumns = Tiles::kColumns, NT = kColumns / 8;
  constexpr int kWarpKeys = kDecodeChunk / kWarps;
  const ForwardArguments<T>& arguments = decode.forward;
  const Problem& problem = arguments.problem;

  // Chunks of a kv head side by side, then row tiles, kv heads, sequences.
  int index = static_cast<int>(blockIdx.x);
  const int chunk = index % decode.chunks;
  index /= decode.chunks;
  const int row_tiles = ceil_div(decode.rows, kDecodeRows);
  const int first_row = index % row_tiles * kDecodeRows;
  index /= row_tiles;
  const int kv_head = index % problem.num_kv_heads, s = index / problem.num_kv_heads;
  const Sequence sequence = load_sequence(problem, s);
  const int rows = smaller(kDecodeRows, sequence.num_queries * problem.group - first_row);
  const Range chunks = visible_chunks(problem, sequence);
  if (rows <= 0 || !chunks.contains(chunk)) return;
  const int group = problem.group, dim = problem.head_dim;
  const int lane = lane_index(), warp = warp_index();

  constexpr int kTile = tile_size<T, kDim>(kColumns);
  SharedMemory memory;
  const Shared<T> q_tile = memory.take<T>(tile_size<T, kDim>(kDecodeRows), 128);
  const Shared<T> tiles = memory.take<T>(2 * kTile * kWarps, 128);  // K and V of every warp
  const Shared<float> statistics = memory.take<float>(2 * kWarps * kDecodeRows);
  const Shared<float> weights =
      memory.take<float>(weights_size<T>(kWarps, kColumns)) + warp * weights_size<T>(1, kColumns);
  const Shared<T> k_tile = tiles + warp * 2 * kTile, v_tile = k_tile + kTile;

  const auto row_address = [&](const Heads<T>& heads, int row) {
    const int r = first_row + smaller(row, rows - 1);
    return heads.at(sequence.first_query + r / group, kv_head * group + r % group, dim);
  };
  load_tile<T, kDim, kDecodeRows, kWarps * kWarp>(
      q_tile, static_cast<int>(threadIdx.x), dim, arguments.q.aligned,
      [rows](int row) { return row < rows; },
      [&](int row) { return row_address(arguments.q, row); });
  copy_async_commit_group();

  const int key_begin = chunk * kDecodeChunk + warp * kWarpKeys;
  const int key_end = smaller(key_begin + kWarpKeys, sequence.num_keys);
  const auto load_keys = [&](Shared<T> tile, const Heads<T>& from, int key) {
    load_rows<T, kDim, kColumns, kWarp>(tile, lane, dim, from.aligned,
                                        from.at(sequence.first_key + key, kv_head, dim),
                                        from.stride, key_end - key);
    copy_async_commit_group();
  };
  if (key_begin < key_end) load_keys(k_tile, arguments.k, key_begin);
  copy_async_wait_group<0>();
  sync_threads();  // the queries are here

  const float log2_factor = problem.scale * kLog2E;
  OnlineSoftmax<T, 1> softmax;
  float out[1][kDim / 8][4];
  clear(out);
#pragma unroll 1
  for (int key = key_begin; key < key_end; key += kColumns) {
    load_keys(v_tile, arguments.v, key);
    copy_async_wait_group<1>();
    sync_warp();  // K is here
    float s_tile[1][NT][4];
    clear(s_tile);
    multiply_by_rows<kDim>(s_tile, q_tile, 0, k_tile);
    sync_warp();  // K has been read
    if (key + kColumns < key_end) {
      load_keys(k_tile, arguments.k, key + kColumns);
    } else {
      copy_async_commit_group();
    }
    mask_scores(s_tile, first_row, [&](int row) {
      return visible_keys(problem, sequence.num_keys - key, row / group + sequence.offset() - key);
    });
    softmax.add(s_tile, out, log2_factor);
    copy_async_wait_group<1>();
    sync_warp();  // V is here
    multiply_by_columns<kDim>(out, s_tile, v_tile, weights);
    sync_warp();  // V has been read
  }
  copy_async_wait_group<0>();
  softmax.finish();

  // The sums of every warp, where its keys and values were.
  const Shared<float> sums = tiles.template as<float>();
  constexpr int kSums = kDecodeRows * kDim;
  static_assert(2 * kTile * sizeof(T) >= kSums * sizeof(float));
  constexpr int kSumsStride = static_cast<int>(2 * kTile * sizeof(T) / sizeof(float));
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = g + 8 * half;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      Vector<float, 2> pair;
      pair[0] = out[0][n][2 * half];
      pair[1] = out[0][n][2 * half + 1];
      store_vector(sums + warp * kSumsStride + row * kDim + 8 * n + 2 * t, pair);
    }
    if (t == 0) {
      store(statistics + (2 * warp) * kDecodeRows + row, softmax.maximum[0][half]);
      store(statistics + (2 * warp + 1) * kDecodeRows + row, softmax.sum[0][half]);
    }
  }
  sync_threads();
  const bool alone = chunks.end - chunks.begin == 1;
#pragma unroll 1
  for (int row = warp; row < rows; row += kWarps) {
    float largest = -infinity(), sum = 0.0f, weight[kWarps];
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      weight[w] = load(statistics + 2 * w * kDecodeRows + row);
      largest = fmaxf(largest, weight[w]);
    }
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      weight[w] = part_weight(weight[w], largest, log2_factor);
      sum += weight[w] * load(statistics + (2 * w + 1) * kDecodeRows + row);
    }
    const int r = first_row + row;
    const int64_t token = sequence.first_query + r / group;
    const int head = kv_head * group + r % group;
    const float inverse = alone ? (sum == 0.0f ? 0.0f : 1.0f / sum) : 1.0f;
    float* const part = alone ? nullptr : part_of(decode, s, kv_head, chunk, r);
#pragma unroll 1
    for (int column = lane; column < dim; column += kWarp) {
      float value = 0.0f;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        value += weight[w] * load(sums + w * kSumsStride + row * kDim + column);
      }
      if (alone) {
        store_result(arguments, token, head, column, value * inverse);
      } else {
        store(part + column, value);
      }
    }
    if (lane == 0) {
      if (alone) {
        store_lse(arguments, token, head, largest, sum);
      } else {
        store(part + dim, largest);
        store(part + dim + 1, sum);
      }
    }
  }
}

// The chunks of a row, in order. A warp has a row.
template <typename T>
__global__ void __launch_bounds__(128)
    attention_decode_combine_kernel(const DecodeArguments<T> decode) {
  const ForwardArguments<T>& arguments = decode.forward;
  const Problem& problem = arguments.problem;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + warp_index();
  const int r = static_cast<int>(index % decode.rows);
  const int64_t pair = index / decode.rows;
  const int kv_head = static_cast<int>(pair % problem.num_kv_heads);
  const int s = static_cast<int>(pair / problem.num_kv_heads);
  if (s >= problem.num_sequences) return;
  const Sequence sequence = load_sequence(problem, s);
  const Range chunks = visible_chunks(problem, sequence);
  if (r >= sequence.num_queries * problem.group || chunks.end - chunks.begin == 1) return;

  constexpr int kPerLane = 256 / kWarp;
  const int dim = problem.head_dim, lane = lane_index();
  const float log2_factor = problem.scale * kLog2E;
  float largest = -infinity();
  for (int chunk = chunks.begin; chunk < chunks.end; ++chunk) {
    largest = fmaxf(largest, load(part_of(decode, s, kv_head, chunk, r) + dim));
  }
  float sum = 0.0f, value[kPerLane] = {};
  for (int chunk = chunks.begin; chunk < chunks.end; ++chunk) {
    const float* const part = part_of(decode, s, kv_head, chunk, r);
    const float weight = part_weight(load(part + dim), largest, log2_factor);
    sum += weight * load(part + dim + 1);
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const int column = lane + j * kWarp;
      if (column < dim) value[j] += weight * load(part + column);
    }
  }
  const int64_t token = sequence.first_query + r / problem.group;
  const int head = kv_head * problem.group + r % problem.group;
  const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    const int column = lane + j * kWarp;
    if (column < dim) store_result(arguments, token, head, column, value[j] * inverse);
  }
  if (lane == 0) store_lse(arguments, token, head, largest, sum);
}

template <typename T, int kDim>
void launch_decode(const Stream& stream, const DecodeArguments<T>& decode) {
  using Tiles = DecodeTiles<T, kDim>;
  const Problem& problem = decode.forward.problem;
  const size_t shared_bytes =
      SharedSize()
          .take<T>(tile_size<T, kDim>(kDecodeRows), 128)
          .template take<T>(2 * tile_size<T, kDim>(Tiles::kColumns) * Tiles::kWarps, 128)
          .template take<float>(2 * Tiles::kWarps * kDecodeRows)
          .template take<float>(weights_size<T>(Tiles::kWarps, Tiles::kColumns))
          .bytes();
  const int64_t pairs = int64_t{problem.num_sequences} * problem.num_kv_heads;
  const int64_t blocks = pairs * ceil_div(decode.rows, kDecodeRows) * decode.chunks;
  launch(stream, "attention_decode", attention_decode_kernel<T, kDim>,
         {.grid = {static_cast<unsigned>(blocks)},
          .block = {Tiles::kWarps * kWarp},
          .shared_bytes = shared_bytes},
         decode);
  if (decode.chunks == 1) return;
  launch(
      stream, "attention_decode_combine", attention_decode_combine_kernel<T>,
      {.grid = {static_cast<unsigned>(ceil_div<int64_t>(pairs * decode.rows, 4))}, .block = {128}},
      decode);
}

// The instance for this head_dim: decode.cu.
void decode(const Stream& stream, const DecodeArguments<BFloat16>& arguments);
void decode(const Stream& stream, const DecodeArguments<float>& arguments);

}  // namespace engine::kernels::ENGINE_GPU::attention
