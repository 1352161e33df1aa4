// Softmax cross-entropy, alone and fused with the linear head before it
// (kernels/api/cross_entropy.h).
//
// The fused operation first lists the rows that have a target. How many there are only the device
// knows: grids are for all rows, and blocks, tiles and loops beyond the count end at once, so the
// host never waits and the cost follows the number of targets. Then, a chunk of rows at a time:
// gather hidden rows, logits by matmul, loss and dz in one kernel, two matmuls with dz, scatter.
//
// Floor: 6 rows hidden vocab FLOPs of matmul, and per logit 4 bytes written and 4 read as fp32,
// then dz written and read twice as bf16: 14 bytes, while d_weight costs 8 bytes per element and
// chunk. The loss kernel reads a row twice (maximum and sum, then dz); the second time comes from
// L2 while the rows in work (one per multiprocessor and 4 bytes per class: 27 MB on an H100 with
// 50257 classes) fit there. Sums of exponentials in the epilogue of the matmul would save the
// first.
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/math.h"
#include "kernels/cuda/device/warp.h"
#include "kernels/cuda/matmul/problem.h"

namespace engine::kernels::ENGINE_GPU {
namespace {

constexpr int kRowWarps = 8;  // of kernels with a warp per row
constexpr unsigned kRowThreads = kRowWarps * kWarp;

// --- Rows with a target ------------------------------------------------------------------------

struct TargetList {
  const int32_t* targets;
  int32_t* rows;   // [tokens]: those with a target, ascending
  int32_t* count;  // how many
  int tokens;
};

// One block goes through all tokens, 8 per thread at a time: the order, and so every bit of what
// follows, is that of the tokens.
__global__ void __launch_bounds__(1024) list_targets_kernel(const TargetList p) {
  constexpr int kEach = 8;
  SharedMemory shared;
  const auto of_warp = shared.take<int32_t>(kWarp);
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int step = static_cast<int>(blockDim.x) * kEach;
  int before = 0;  // found in earlier rounds
  for (int begin = 0; begin < p.tokens; begin += step) {
    const int first = begin + static_cast<int>(threadIdx.x) * kEach;
    uint32_t found = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const bool has = first + i < p.tokens && load(p.targets + first + i) != kIgnoreIndex;
      found |= static_cast<uint32_t>(has) << i;
    }
    const int mine = count_bits(found);
    int up_to_me = mine;
#pragma unroll
    for (int delta = 1; delta < kWarp; delta *= 2) {
      const int other = shuffle_up(up_to_me, delta);
      if (lane_index() >= delta) up_to_me += other;
    }
    if (lane_index() == kWarp - 1) store(of_warp + warp_index(), up_to_me);
    sync_threads();
    int position = before + up_to_me - mine;
    for (int w = 0; w < warps; ++w) {
      const int32_t count = load(of_warp + w);
      if (w < warp_index()) position += count;
      before += count;
    }
    sync_threads();
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (found >> i & 1) store(p.rows + position++, first + i);
    }
  }
  if (threadIdx.x == 0) store(p.count, before);
}

// Copies or clears a row of `width` elements, by one warp.
template <typename T>
ENGINE_DEVICE void copy_row(T* to, const T* from, int width, bool vectors) {
  constexpr int N = kVectorWidth<T>;
  if (vectors) {
    for (int i = lane_index() * N; i < width; i += kWarp * N) {
      store_vector(to + i, from ? load_vector<N>(from + i) : Vector<T, N>{});
    }
  } else {
    for (int i = lane_index(); i < width; i += kWarp) {
      store(to + i, from ? load(from + i) : from_float<T>(0.0f));
    }
  }
}

struct Ignored {
  const int32_t* targets;
  float* losses;
  int32_t* argmax;  // or null
  void* d_hidden;   // or null
  int tokens, width;
  bool vectors;
};

template <typename T>
__global__ void __launch_bounds__(kRowThreads) clear_ignored_kernel(const Ignored p) {
  const int row = static_cast<int>(blockIdx.x) * kRowWarps + warp_index();
  if (row >= p.tokens || load(p.targets + row) != kIgnoreIndex) return;
  if (lane_index() == 0) {
    store(p.losses + row, 0.0f);
    if (p.argmax) store(p.argmax + row, -1);
  }
  if (p.d_hidden) {
    copy_row<T>(static_cast<T*>(p.d_hidden) + static_cast<int64_t>(row) * p.width, nullptr, p.width,
                p.vectors);
  }
}

struct ChunkRows {
  const int32_t* rows;  // of the chunk
  const int32_t* count;
  int first, chunk_rows, width;
  const void* from;
  void* to;
  bool scatter;  // to[rows[i]] = from[i], else to[i] = from[rows[i]]
  bool vectors;
};

template <typename T>
__global__ void __launch_bounds__(kRowThreads) move_rows_kernel(const ChunkRows p) {
  const int i = static_cast<int>(blockIdx.x) * kRowWarps + warp_index();
  if (i >= p.chunk_rows || i >= load(p.count) - p.first) return;
  const int64_t row = load(p.rows + i);
  copy_row(static_cast<T*>(p.to) + (p.scatter ? row : i) * p.width,
           static_cast<const T*>(p.from) + (p.scatter ? i : row) * p.width, p.width, p.vectors);
}

// --- Loss --------------------------------------------------------------------------------------

struct LossRows {
  float* logits;  // row i of the chunk at i * stride; dz of type T lies over it
  int64_t stride;
  int classes;
  const int32_t* rows;   // [i]: the row's place in targets, losses and argmax; null: i
  const int32_t* count;  // rows of all chunks; null: all exist
  int first;
  const int32_t* targets;
  float logit_scale, grad_scale;
  float* losses;
  int32_t* argmax;  // or null
  bool gradient;
  bool vectors;  // rows start on 16-byte boundaries
};

constexpr int kGroups = 4;  // of 4 logits that a thread reads at a time

// Logits of a thread in the step that begins at `begin`: group g at begin + (g threads + thread) 4.
// Beyond the last class: -infinity.
struct LogitReader {
  const float* row;
  int classes;
  float scale;
  bool vectors;

  ENGINE_DEVICE static int first(int begin, int group) {
    return begin + (group * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * 4;
  }
  ENGINE_DEVICE void read(float (&z)[kGroups][4], int begin) const {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int v = first(begin, g);
      if (vectors && v + 4 <= classes) {
        const auto four = load_vector<4>(row + v);
#pragma unroll
        for (int e = 0; e < 4; ++e) z[g][e] = four[e] * scale;
      } else {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          z[g][e] = v + e < classes ? load(row + v + e) * scale : -infinity();
        }
      }
    }
  }
};

struct Softmax {
  float maximum, sum;  // Σ exp(z - maximum)
  int argmax;          // the first of equals
};

ENGINE_DEVICE Softmax softmax_of_row(const LogitReader& reader, Shared<float> scratch) {
  // not -inf: a row of -inf must not compute inf - inf before a finite logit comes
  float highest = -3.402823466e38f, sum = 0.0f;
  int argmax = 0;
  const int step = static_cast<int>(blockDim.x) * kGroups * 4;
  for (int begin = 0; begin < reader.classes; begin += step) {
    float z[kGroups][4];
    reader.read(z, begin);
    float most = highest;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int e = 0; e < 4; ++e) most = fmaxf(most, z[g][e]);
    }
    if (most > highest) {
      sum *= exp_approx(highest - most);
      highest = most;
      argmax = INT32_MAX;
#pragma unroll
      for (int g = kGroups - 1; g >= 0; --g) {
#pragma unroll
        for (int e = 3; e >= 0; --e) {
          if (z[g][e] == most) argmax = LogitReader::first(begin, g) + e;
        }
      }
    }
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sum += exp_approx(z[g][e] - highest);
    }
  }
  Softmax result;
  result.maximum = block_max(highest, scratch);
  result.sum = block_sum(sum * exp_approx(highest - result.maximum), scratch);
  const auto first = scratch.as<int32_t>();
  argmax = highest == result.maximum ? argmax : INT32_MAX;
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const int other = shuffle_xor(argmax, mask);
    argmax = other < argmax ? other : argmax;
  }
  if (lane_index() == 0) store(first + warp_index(), argmax);
  sync_threads();
  result.argmax = INT32_MAX;
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w) {
    const int other = load(first + w);
    result.argmax = other < result.argmax ? other : result.argmax;
  }
  return result;
}

// One block per row.
template <typename T>
__global__ void __launch_bounds__(1024) loss_kernel(const LossRows p) {
  const int i = static_cast<int>(blockIdx.x);
  if (p.count && i >= load(p.count) - p.first) return;
  const int row = p.rows ? load(p.rows + i) : i;
  float* const logits = p.logits + i * p.stride;
  auto* const dz = reinterpret_cast<T*>(logits);
  const int32_t target = load(p.targets + row);
  const LogitReader reader{logits, p.classes, p.logit_scale, p.vectors};
  const int step = static_cast<int>(blockDim.x) * kGroups * 4;
  if (target == kIgnoreIndex) {
    if (threadIdx.x == 0) {
      store(p.losses + row, 0.0f);
      if (p.argmax) store(p.argmax + row, -1);
    }
    for (int v = static_cast<int>(threadIdx.x); p.gradient && v < p.classes;
         v += static_cast<int>(blockDim.x)) {
      store(dz + v, from_float<T>(0.0f));
    }
    return;
  }

  SharedMemory shared;
  const Softmax softmax = softmax_of_row(reader, shared.take<float>(kWarp));
  if (threadIdx.x == 0) {
    const double distance =
        static_cast<double>(softmax.maximum) - load(logits + target) * p.logit_scale;
    store(p.losses + row, static_cast<float>(log(static_cast<double>(softmax.sum)) + distance));
    if (p.argmax) store(p.argmax + row, softmax.argmax);
  }
  if (!p.gradient) return;

  const float gradient = p.logit_scale * p.grad_scale;
  const float share = 1.0f / softmax.sum;
  for (int begin = 0; begin < p.classes; begin += step) {
    float z[kGroups][4];
    reader.read(z, begin);
    // dz of this step lies over logits that have been read now: those of earlier steps and, in the
    // first step, its own. The barrier also keeps the target's logit until its loss is known.
    sync_threads();
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int v = LogitReader::first(begin, g);
      Vector<T, 4> four;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float probability = exp_approx(z[g][e] - softmax.maximum) * share;
        four[e] = from_float<T>((v + e == target ? probability - 1.0f : probability) * gradient);
      }
      if (p.vectors && v + 4 <= p.classes) {
        store_vector(dz + v, four);
      } else {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (v + e < p.classes) store(dz + v + e, four[e]);
        }
      }
    }
  }
}

template <typename T>
void launch_loss(Stream stream, const LossRows& p, int64_t rows) {
  // 16 logits per thread and step; large rows have the multiprocessor for themselves.
  const int64_t threads = ceil_div<int64_t>(p.classes, kGroups * 4 * kWarp) * kWarp;
  launch(stream, "cross_entropy", loss_kernel<T>,
         {.grid = {static_cast<unsigned>(rows)},
          .block = {static_cast<unsigned>(threads < 1024 ? threads : 1024)},
          .shared_bytes = SharedSize().take<float>(kWarp).bytes()},
         p);
}

bool on_vectors(const void* data, int64_t row_bytes) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && row_bytes % 16 == 0;
}

// --- The fused operation -----------------------------------------------------------------------

// Rows per chunk unless the caller says: fewer than 2048 and adding to d_weight in memory takes
// longer than a tenth of the products do; the logits are 1 GiB at most.
int64_t default_chunk_rows(int64_t tokens, int64_t vocab_size) {
  constexpr int64_t kLogits = (int64_t{1} << 30) / sizeof(float), kMultiple = 64, kMost = 4096;
  int64_t most = kLogits / vocab_size / kMultiple * kMultiple;
  most = most < kMultiple ? kMultiple : most < kMost ? most : kMost;
  // Chunks of like size: as many as are needed anyway, and no larger than that takes.
  const int64_t chunks = tokens > most ? ceil_div(tokens, most) : 1;
  const int64_t rows = ceil_div(ceil_div(tokens, chunks), kMultiple) * kMultiple;
  return rows < kMultiple ? kMultiple : rows;
}

// The parts of the workspace: offsets, and the total.
struct Workspace {
  int64_t chunk_rows, logits_stride;
  size_t count, rows, hidden, d_hidden, logits, matmul, bytes;
};

// d_hidden of a chunk: few elements, and a vocabulary to sum over.
Matmul d_hidden_product(const LinearCrossEntropy& p, int64_t chunk_rows) {
  return {.m = chunk_rows,
          .n = p.hidden_size,
          .k = p.vocab_size,
          .input_dtype = p.dtype,
          .output_dtype = p.dtype};
}

Workspace workspace_of(const LinearCrossEntropy& p) {
  Workspace w{};
  w.chunk_rows = p.chunk_rows ? p.chunk_rows : default_chunk_rows(p.tokens, p.vocab_size);
  const int64_t all = p.tokens > 1 ? p.tokens : 1;
  if (w.chunk_rows > all) w.chunk_rows = all;
  w.logits_stride = ceil_div<int64_t>(p.vocab_size, 32) * 32;  // whole 128-byte lines
  const auto part = [&](int64_t count, size_t size) {
    const size_t offset = w.bytes;
    w.bytes += ceil_div<size_t>(static_cast<size_t>(count) * size, 256) * 256;
    return offset;
  };
  w.count = part(1, sizeof(int32_t));
  w.rows = part(p.tokens, sizeof(int32_t));
  w.hidden = part(w.chunk_rows * p.hidden_size, size_of(p.dtype));
  w.d_hidden = part(w.chunk_rows * p.hidden_size, size_of(p.dtype));
  w.logits = part(w.chunk_rows * w.logits_stride, sizeof(float));
  w.matmul = part(static_cast<int64_t>(matmul_workspace(d_hidden_product(p, w.chunk_rows))), 1);
  return w;
}

template <typename T>
void run(Stream stream, const LinearCrossEntropy& p) {
  const Workspace w = workspace_of(p);
  auto* const base = static_cast<char*>(p.workspace);
  auto* const count = reinterpret_cast<int32_t*>(base + w.count);
  auto* const rows = reinterpret_cast<int32_t*>(base + w.rows);
  auto* const logits = reinterpret_cast<float*>(base + w.logits);
  void* const hidden = base + w.hidden;
  void* const d_hidden = base + w.d_hidden;
  const int tokens = static_cast<int>(p.tokens), width = static_cast<int>(p.hidden_size);
  const int64_t row_bytes = p.hidden_size * static_cast<int64_t>(sizeof(T));
  const auto blocks = [](int64_t count) {
    return static_cast<unsigned>(ceil_div<int64_t>(count, kRowWarps));
  };

  const int64_t threads = ceil_div<int64_t>(p.tokens, 8 * kWarp) * kWarp;
  launch(stream, "list_targets", list_targets_kernel,
         {.block = {static_cast<unsigned>(threads < 1024 ? threads : 1024)},
          .shared_bytes = SharedSize().take<int32_t>(kWarp).bytes()},
         {p.targets, rows, count, tokens});
  launch(stream, "clear_ignored", clear_ignored_kernel<T>,
         {.grid = {blocks(p.tokens)}, .block = {kRowThreads}},
         {p.targets, p.losses, p.argmax, p.d_hidden, tokens, width,
          on_vectors(p.d_hidden, row_bytes)});

  const bool backward = p.d_hidden || p.d_weight;
  const int64_t dz_stride = w.logits_stride * static_cast<int64_t>(sizeof(float) / sizeof(T));
  for (int64_t begin = 0; begin < p.tokens; begin += w.chunk_rows) {
    const int64_t left = p.tokens - begin;
    const int64_t chunk_rows = left < w.chunk_rows ? left : w.chunk_rows;
    const auto first = static_cast<int32_t>(begin);
    using Of = DeviceExtent::Of;
    const auto move = [&](const void* from, void* to, bool scatter) {
      launch(stream, scatter ? "scatter_targets" : "gather_targets", move_rows_kernel<T>,
             {.grid = {blocks(chunk_rows)}, .block = {kRowThreads}},
             {rows + begin, count, first, static_cast<int>(chunk_rows), width, from, to, scatter,
              on_vectors(from, row_bytes) && on_vectors(to, row_bytes)});
    };
    move(p.hidden, hidden, false);
    matmul_within(stream,
                  {.a = hidden,
                   .b = p.weight,
                   .d = logits,
                   .m = chunk_rows,
                   .n = p.vocab_size,
                   .k = p.hidden_size,
                   .ldd = w.logits_stride,
                   .transpose_b = true,
                   .input_dtype = p.dtype,
                   .output_dtype = DType::f32},
                  {Of::m, first, count});
    launch_loss<T>(stream,
                   {.logits = logits,
                    .stride = w.logits_stride,
                    .classes = static_cast<int>(p.vocab_size),
                    .rows = rows + begin,
                    .count = count,
                    .first = first,
                    .targets = p.targets,
                    .logit_scale = p.logit_scale,
                    .grad_scale = p.grad_scale,
                    .losses = p.losses,
                    .argmax = p.argmax,
                    .gradient = backward,
                    .vectors = true},
                   chunk_rows);
    if (p.d_hidden) {
      // The whole chunk's shape also in the last, so that all are cut into the same parts of k.
      Matmul product = d_hidden_product(p, w.chunk_rows);
      product.a = logits;
      product.b = p.weight;
      product.d = d_hidden;
      product.lda = dz_stride;
      product.workspace = base + w.matmul;
      matmul_within(stream, product, {Of::m, first, count});
      move(d_hidden, p.d_hidden, true);
    }
    if (p.d_weight) {
      matmul_within(stream,
                    {.a = logits,
                     .b = hidden,
                     .d = p.d_weight,
                     .m = p.vocab_size,
                     .n = p.hidden_size,
                     .k = chunk_rows,
                     .lda = dz_stride,
                     .transpose_a = true,
                     .accumulate = true,
                     .input_dtype = p.dtype,
                     .output_dtype = DType::f32},
                    {Of::k, first, count});
    }
  }
}

}  // namespace

size_t linear_cross_entropy_workspace(const LinearCrossEntropy& p) {
  return workspace_of(p).bytes;
}

void linear_cross_entropy(Stream stream, const LinearCrossEntropy& p) {
  require(p.tokens >= 0 && p.hidden_size >= 0 && p.vocab_size > 0 && p.chunk_rows >= 0,
          "linear_cross_entropy: bad shape");
  require(p.tokens <= INT32_MAX - 8192 && p.vocab_size <= INT32_MAX - 65536,
          "linear_cross_entropy: a size does not fit 32 bits");
  require(p.dtype == DType::f32 || p.dtype == DType::bf16,
          "linear_cross_entropy: the compute dtype must be f32 or bf16");
  if (p.tokens == 0) return;
  if (p.dtype == DType::bf16) {
    run<BFloat16>(stream, p);
  } else {
    run<float>(stream, p);
  }
}

void cross_entropy(Stream stream, const CrossEntropy& p) {
  const int64_t stride = p.stride ? p.stride : p.classes;
  require(p.rows >= 0 && p.classes > 0 && stride >= p.classes, "cross_entropy: bad shape");
  require(p.rows <= INT32_MAX && p.classes <= INT32_MAX - 65536,
          "cross_entropy: a size does not fit 32 bits");
  launch_loss<float>(stream,
                     {.logits = p.logits,
                      .stride = stride,
                      .classes = static_cast<int>(p.classes),
                      .targets = p.targets,
                      .logit_scale = 1.0f,
                      .grad_scale = p.grad_scale,
                      .losses = p.losses,
                      .argmax = p.argmax,
                      .gradient = p.d_logits,
                      .vectors = on_vectors(p.logits, stride * 4)},
                     p.rows);
}

}  // namespace engine::kernels::ENGINE_GPU
