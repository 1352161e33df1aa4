// The forward of attention in steps, each one idea faster than the one before: for readers of
// docs/kernels.md, and to be timed (`engine bench attention`). Production is the last step.
//
//   three_pass  the formula: maximum, sum, output, each a loop over the keys. A warp per query.
//   online      one loop: maximum and sum are corrected as keys come (Milakov & Gimelshein 2018)
//   tiled       32 queries share the keys in shared memory; a lane is a key, then a dimension
//   mma         forward.h: tensor cores, probabilities stay in registers, keys arrive
//   asynchronously
//   wgmma       forward_wgmma.cu: a thread that loads by TMA, warpgroups that multiply (sm_90a)
//
// Bytes of K and V per query and head, N keys of D dimensions: 4 N D, 2 N D, 2 N D / 32 and
// 2 N D / 128 elements in the last two; the FLOPs are 4 N D in all of them (6 N D in the first:
// scores three times).
#include "kernels/api/attention_variants.h"
#include "kernels/cuda/attention/problem.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/math.h"

namespace engine::kernels::ENGINE_GPU {
namespace attention {
namespace {

template <typename T>
struct StepArguments {
  Problem problem;
  Heads<T> q, k, v, out;
  float* lse;  // or null
  int slots;
};

// A lane has the elements lane, lane + 32, ... of a row: neighbours read neighbouring words.
template <typename T, int kChunks>
ENGINE_DEVICE void load_row(float (&x)[kChunks], const T* row, int dim) {
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int d = lane_index() + kWarp * c;
    x[c] = d < dim ? to_float(load(row + d)) : 0.0f;
  }
}
template <int kChunks>
ENGINE_DEVICE float dot(const float (&a)[kChunks], const float (&b)[kChunks]) {
  float sum = 0.0f;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) sum += a[c] * b[c];
  return warp_sum(sum);
}
template <typename T, int kChunks>
ENGINE_DEVICE void store_row(T* row, const float (&x)[kChunks], float factor, int dim) {
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int d = lane_index() + kWarp * c;
    if (d < dim) store(row + d, from_float<T>(x[c] * factor));
  }
}

// The query and head of a warp, and the keys it sees.
template <typename T>
struct WarpQuery {
  bool exists = false;
  int head = 0, kv_head = 0;
  int64_t token = 0, first_key = 0;
  Range keys = {0, 0};

  ENGINE_DEVICE explicit WarpQuery(const StepArguments<T>& arguments) {
    const Problem& problem = arguments.problem;
    const int index = static_cast<int>(blockIdx.x * (blockDim.x / kWarp)) + warp_index();
    if (index >= arguments.slots) return;
    const Slot slot = find_slot(problem.cu_seqlens_q, problem.num_sequences, 1, index);
    const Sequence sequence = load_sequence(problem, slot.sequence);
    if (slot.tile >= sequence.num_queries) return;
    exists = true;
    head = static_cast<int>(blockIdx.y);
    kv_head = head / problem.group;
    token = sequence.first_query + slot.tile;
    first_key = sequence.first_key;
    keys = visible_keys(problem, sequence.num_keys, slot.tile + sequence.offset());
  }
};

template <typename T>
ENGINE_DEVICE void store_lse(const StepArguments<T>& arguments, const WarpQuery<T>& query,
                             float maximum, float sum) {
  if (arguments.lse && lane_index() == 0) {
    store(arguments.lse + query.head * arguments.problem.total_q + query.token,
          sum == 0.0f ? -infinity() : maximum + logf(sum));
  }
}

constexpr int kThreads = 128;

template <typename T, int kChunks>
__global__ void __launch_bounds__(kThreads)
    attention_three_pass_kernel(const StepArguments<T> arguments) {
  const Problem& problem = arguments.problem;
  const int dim = problem.head_dim;
  const WarpQuery<T> query(arguments);
  if (!query.exists) return;
  float q[kChunks], row[kChunks], out[kChunks];
  load_row(q, arguments.q.at(query.token, query.head, dim), dim);
  const auto score = [&](int key) {
    load_row(row, arguments.k.at(query.first_key + key, query.kv_head, dim), dim);
    return problem.scale * dot(q, row);
  };
  float maximum = -infinity();
  for (int key = query.keys.begin; key < query.keys.end; ++key) {
    maximum = fmaxf(maximum, score(key));
  }
  float sum = 0.0f;
  for (int key = query.keys.begin; key < query.keys.end; ++key) {
    sum += expf(score(key) - maximum);
  }
#pragma unroll
  for (int c = 0; c < kChunks; ++c) out[c] = 0.0f;
  for (int key = query.keys.begin; key < query.keys.end; ++key) {
    const float p = expf(score(key) - maximum) / sum;
    load_row(row, arguments.v.at(query.first_key + key, query.kv_head, dim), dim);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) out[c] += p * row[c];
  }
  store_row(arguments.out.at(query.token, query.head, dim), out, 1.0f, dim);
  store_lse(arguments, query, maximum, sum);
}

template <typename T, int kChunks>
__global__ void __launch_bounds__(kThreads)
    attention_online_kernel(const StepArguments<T> arguments) {
  const Problem& problem = arguments.problem;
  const int dim = problem.head_dim;
  const WarpQuery<T> query(arguments);
  if (!query.exists) return;
  float q[kChunks], row[kChunks], out[kChunks];
  load_row(q, arguments.q.at(query.token, query.head, dim), dim);
#pragma unroll
  for (int c = 0; c < kChunks; ++c) out[c] = 0.0f;
  float maximum = -infinity(), sum = 0.0f;
  for (int key = query.keys.begin; key < query.keys.end; ++key) {
    load_row(row, arguments.k.at(query.first_key + key, query.kv_head, dim), dim);
    const float s = problem.scale * dot(q, row);
    // What was summed so far was relative to the old maximum.
    const float larger_maximum = fmaxf(maximum, s);
    const float correction = expf(maximum - larger_maximum), p = expf(s - larger_maximum);
    maximum = larger_maximum;
    sum = sum * correction + p;
    load_row(row, arguments.v.at(query.first_key + key, query.kv_head, dim), dim);
#pragma unroll
    for (int c = 0; c < kChunks; ++c) out[c] = out[c] * correction + p * row[c];
  }
  store_row(arguments.out.at(query.token, query.head, dim), out, sum == 0.0f ? 0.0f : 1.0f / sum,
            dim);
  store_lse(arguments, query, maximum, sum);
}

// A block has 32 queries of a head, each of its four warps eight. Keys come 32 at a time.
constexpr int kTile = 32, kQueriesPerWarp = kTile / (kThreads / kWarp);

// Rows are an odd number of words apart: lanes that read a column of rows are in different banks.
constexpr int row_words(int chunks) {
  return chunks * kWarp + 1;
}

template <typename T, int kChunks>
__global__ void __launch_bounds__(kThreads)
    attention_tiled_kernel(const StepArguments<T> arguments) {
  constexpr int kRow = row_words(kChunks);
  const Problem& problem = arguments.problem;
  const int dim = problem.head_dim, lane = lane_index(), head = static_cast<int>(blockIdx.y);
  const Slot slot =
      find_slot(problem.cu_seqlens_q, problem.num_sequences, kTile, static_cast<int>(blockIdx.x));
  const Sequence sequence = load_sequence(problem, slot.sequence);
  const int first_query = slot.tile * kTile;
  if (first_query >= sequence.num_queries) return;  // the whole block
  const int queries = smaller(kTile, sequence.num_queries - first_query);
  const int first_mine = warp_index() * kQueriesPerWarp;

  SharedMemory memory;
  const Shared<float> q_tile = memory.take<float>(kTile * kRow);
  const Shared<float> k_tile = memory.take<float>(kTile * kRow);
  const Shared<float> v_tile = memory.take<float>(kTile * kRow);
  // Row r of a tile is token `first + r`; zeros where there is none.
  const auto load_tile = [&](Shared<float> tile, const Heads<T>& from, int64_t first, int count,
                             int from_head) {
    for (int r = warp_index(); r < kTile; r += kThreads / kWarp) {
      float row[kChunks];
#pragma unroll
      for (int c = 0; c < kChunks; ++c) row[c] = 0.0f;
      if (r < count) load_row(row, from.at(first + r, from_head, dim), dim);
#pragma unroll
      for (int c = 0; c < kChunks; ++c) store(tile + r * kRow + lane + kWarp * c, row[c]);
    }
  };
  load_tile(q_tile, arguments.q, sequence.first_query + first_query, queries, head);

  // Keys that some query of the block sees.
  const int position = first_query + sequence.offset();
  const int begin = visible_keys(problem, sequence.num_keys, position).begin;
  const int end = visible_keys(problem, sequence.num_keys, position + queries - 1).end;
  float out[kQueriesPerWarp][kChunks], maximum[kQueriesPerWarp], sum[kQueriesPerWarp];
#pragma unroll
  for (int i = 0; i < kQueriesPerWarp; ++i) {
    maximum[i] = -infinity();
    sum[i] = 0.0f;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) out[i][c] = 0.0f;
  }
  for (int key = begin; key < end; key += kTile) {
    sync_threads();  // the tiles before these have been read
    const int64_t first_key = sequence.first_key + key;
    const int keys = smaller(kTile, sequence.num_keys - key);
    load_tile(k_tile, arguments.k, first_key, keys, head / problem.group);
    load_tile(v_tile, arguments.v, first_key, keys, head / problem.group);
    sync_threads();
    // A lane is a key: its scores with the warp's queries.
    float s[kQueriesPerWarp];
#pragma unroll
    for (int i = 0; i < kQueriesPerWarp; ++i) s[i] = 0.0f;
    for (int d = 0; d < dim; ++d) {
      const float k = load(k_tile + lane * kRow + d);
#pragma unroll
      for (int i = 0; i < kQueriesPerWarp; ++i) {
        s[i] += load(q_tile + (first_mine + i) * kRow + d) * k;
      }
    }
#pragma unroll
    for (int i = 0; i < kQueriesPerWarp; ++i) {
      const Range range = visible_keys(problem, sequence.num_keys, position + first_mine + i);
      s[i] = range.contains(key + lane) ? problem.scale * s[i] : -infinity();
      const float larger_maximum = fmaxf(maximum[i], warp_max(s[i]));
      const float zero = larger_maximum == -infinity() ? 0.0f : larger_maximum;
      const float correction = expf(maximum[i] - zero);
      s[i] = expf(s[i] - zero);
      maximum[i] = larger_maximum;
      sum[i] = sum[i] * correction + warp_sum(s[i]);
#pragma unroll
      for (int c = 0; c < kChunks; ++c) out[i][c] *= correction;
    }
    // A lane is a dimension: it needs the probabilities of all keys.
    for (int j = 0; j < kTile; ++j) {
      float v[kChunks];
#pragma unroll
      for (int c = 0; c < kChunks; ++c) v[c] = load(v_tile + j * kRow + lane + kWarp * c);
#pragma unroll
      for (int i = 0; i < kQueriesPerWarp; ++i) {
        const float p = shuffle(s[i], j);
#pragma unroll
        for (int c = 0; c < kChunks; ++c) out[i][c] += p * v[c];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kQueriesPerWarp; ++i) {
    if (first_mine + i >= queries) continue;
    const int64_t token = sequence.first_query + first_query + first_mine + i;
    store_row(arguments.out.at(token, head, dim), out[i], sum[i] == 0.0f ? 0.0f : 1.0f / sum[i],
              dim);
    if (arguments.lse && lane == 0) {
      store(arguments.lse + head * problem.total_q + token,
            sum[i] == 0.0f ? -infinity() : maximum[i] + logf(sum[i]));
    }
  }
}

enum class Step : uint8_t { three_pass, online, tiled };

template <Step step, typename T, int kChunks>
void launch_step(const Stream& stream, const AttentionForward& forward) {
  const AttentionShape& shape = forward.shape;
  const int dim = shape.head_dim;
  constexpr bool tiled = step == Step::tiled;
  StepArguments<T> arguments{.problem = problem_of(shape),
                             .q = heads_of<T>(forward.q, forward.q_stride, dim),
                             .k = heads_of<T>(forward.k, forward.k_stride, dim),
                             .v = heads_of<T>(forward.v, forward.v_stride, dim),
                             .out = heads_of<T>(forward.out, int64_t{shape.num_heads} * dim, dim),
                             .lse = forward.lse};
  const int64_t slots = count_slots(shape.total_q, shape.num_sequences, tiled ? kTile : 1);
  arguments.slots = static_cast<int>(slots);
  const int64_t blocks = tiled ? slots : ceil_div<int64_t>(slots, kThreads / kWarp);
  LaunchConfig config{
      .grid = {static_cast<unsigned>(blocks), static_cast<unsigned>(shape.num_heads)},
      .block = {kThreads}};
  if constexpr (step == Step::three_pass) {
    launch(stream, "attention_three_pass", attention_three_pass_kernel<T, kChunks>, config,
           arguments);
  } else if constexpr (step == Step::online) {
    launch(stream, "attention_online", attention_online_kernel<T, kChunks>, config, arguments);
  } else {
    config.shared_bytes = SharedSize().take<float>(3 * kTile * row_words(kChunks)).bytes();
    launch(stream, "attention_tiled", attention_tiled_kernel<T, kChunks>, config, arguments);
  }
}

template <Step step>
void run_step(Stream stream, const AttentionForward& forward) {
  const AttentionShape& shape = forward.shape;
  require(shape.distance_count == 0 && shape.dropout_p == 0.0f && shape.head_dim <= 256,
          "the steps of attention have no bias and no dropout");
  if (shape.total_q == 0 || shape.num_sequences == 0) return;
  const bool wide = shape.head_dim > 128;
  if (shape.dtype == DType::f32) {
    wide ? launch_step<step, float, 8>(stream, forward)
         : launch_step<step, float, 4>(stream, forward);
  } else {
    wide ? launch_step<step, BFloat16, 8>(stream, forward)
         : launch_step<step, BFloat16, 4>(stream, forward);
  }
}

}  // namespace
}  // namespace attention

AttentionVariants attention_variants() {
  using attention::run_step;
  using attention::Step;
  static constexpr AttentionVariant kVariants[] = {
      {"three_pass", run_step<Step::three_pass>},
      {"online", run_step<Step::online>},
      {"tiled", run_step<Step::tiled>},
      {"mma", attention_forward_mma},
      {"wgmma", attention_forward},  // which leaves to mma what it does not take
  };
  return {kVariants, compute_capability({}) == 90 ? 5 : 4};
}

}  // namespace engine::kernels::ENGINE_GPU
