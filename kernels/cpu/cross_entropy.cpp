// Softmax cross-entropy, alone and fused with the linear head: rows that are not ignored are
// gathered, then taken a chunk at a time through three matmuls around one pass over the logits.
#include "kernels/api/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector_math.h"

namespace engine::kernels {

int64_t linear_cross_entropy_chunk_rows(int64_t tokens, int64_t vocab_size) {
  constexpr int64_t kLogits = (int64_t{256} << 20) / sizeof(float), kMultiple = 64;
  const int64_t fitting = kLogits / std::max<int64_t>(vocab_size, 1) / kMultiple * kMultiple;
  const int64_t most = std::max(fitting, kMultiple);
  // Chunks of like size: as many as are needed anyway, and no larger than that takes.
  const int64_t chunks = std::max<int64_t>((tokens + most - 1) / most, 1);
  const int64_t rows = (tokens + chunks - 1) / chunks;
  return std::max((rows + kMultiple - 1) / kMultiple * kMultiple, kMultiple);
}

namespace cpu {
namespace {

struct Softmax {
  float maximum = 0;
  float sum = 0;       // Σ exp(z - maximum)
  int64_t argmax = 0;  // the first of equals
};

// One pass over memory: a block is read for its maximum, then again from the L1 cache for its sum.
Softmax softmax_of_row(const float* logits, int64_t classes, float scale) {
  constexpr int64_t kBlock = 1024;
  // not -inf: a row of -inf must not compute inf - inf before a finite logit comes
  constexpr float kLowest = std::numeric_limits<float>::lowest();
  float highest = kLowest;
  int64_t highest_block = 0;
  double sum = 0;
  for (int64_t begin = 0; begin < classes; begin += kBlock) {
    const float* x = logits + begin;
    const int64_t count = std::min(kBlock, classes - begin);
    F32x16 most = splat(kLowest);
    for_vectors(count, [&](int64_t i, auto lanes) {
      most = maximum(most, fill_rest(load(x + i, lanes) * scale, kLowest, lanes));
    });
    const float block_most = maximum_of_lanes(most);
    if (block_most > highest) {
      sum *= static_cast<double>(exp(highest - block_most));
      highest = block_most;
      highest_block = begin;
    }
    F32x16 block_sum = {};
    for_vectors(count, [&](int64_t i, auto lanes) {
      block_sum += fill_rest(exp(load(x + i, lanes) * scale - highest), 0.0f, lanes);
    });
    sum += static_cast<double>(sum_of_lanes(block_sum));
  }
  Softmax result{highest, static_cast<float>(sum), highest_block};
  const int64_t end = std::min(highest_block + kBlock, classes);
  while (result.argmax + 1 < end && logits[result.argmax] * scale != highest) ++result.argmax;
  return result;
}

// dz[v] = scale · grad_scale · (softmax(scale · z)[v] - [v = target]); T's dz may lie on z, since
// it is written no sooner than the logits under it were read.
template <typename T>
void logits_gradient(const float* logits, int64_t classes, int64_t target, const Softmax& softmax,
                     float logit_scale, float grad_scale, T* dz) {
  const float gradient = logit_scale * grad_scale, factor = gradient / softmax.sum;
  const float target_logit = logits[target];
  for_vectors(classes, [&](int64_t v, auto lanes) {
    const F32x16 z = load(logits + v, lanes) * logit_scale;
    store(dz + v, exp(z - softmax.maximum) * factor, lanes);
  });
  const float probability = exp(target_logit * logit_scale - softmax.maximum) / softmax.sum;
  dz[target] = static_cast<T>((probability - 1.0f) * gradient);
}

float loss_of(const Softmax& softmax, float target_logit, float logit_scale) {
  return static_cast<float>(std::log(static_cast<double>(softmax.sum)) +
                            (static_cast<double>(softmax.maximum) - target_logit * logit_scale));
}

// The parts of the workspace of the fused operation.
struct Workspace {
  int64_t chunk_rows, logits_stride;
  size_t rows, hidden, d_hidden, logits, bytes;  // offsets, and the total
};

Workspace workspace_of(const LinearCrossEntropy& p) {
  Workspace w{};
  w.chunk_rows =
      p.chunk_rows ? p.chunk_rows : linear_cross_entropy_chunk_rows(p.tokens, p.vocab_size);
  w.chunk_rows = std::min(w.chunk_rows, std::max<int64_t>(p.tokens, 1));
  // Whole cache lines per row, and an odd number of them, so that columns spread over the cache.
  w.logits_stride = (p.vocab_size + 15) / 16 * 16;
  if (w.logits_stride / 16 % 2 == 0) w.logits_stride += 16;
  const auto part = [&](int64_t count, size_t size) {
    const size_t offset = w.bytes;
    w.bytes += (static_cast<size_t>(count) * size + 63) / 64 * 64;
    return offset;
  };
  w.rows = part(p.tokens, sizeof(int32_t));
  w.hidden = part(w.chunk_rows * p.hidden_size, size_of(p.dtype));
  w.d_hidden = part(w.chunk_rows * p.hidden_size, size_of(p.dtype));
  w.logits = part(w.chunk_rows * w.logits_stride, sizeof(float));
  return w;
}

}  // namespace

size_t linear_cross_entropy_workspace(const LinearCrossEntropy& p) {
  return workspace_of(p).bytes;
}

void linear_cross_entropy(Stream stream, const LinearCrossEntropy& p) {
  require(p.tokens >= 0 && p.hidden_size >= 0 && p.vocab_size > 0 && p.chunk_rows >= 0,
          "linear_cross_entropy: bad shape");
  require(p.dtype == DType::f32 || p.dtype == DType::bf16,
          "linear_cross_entropy: the compute dtype must be f32 or bf16");
  const Workspace w = workspace_of(p);
  auto* base = static_cast<char*>(p.workspace);
  auto* rows = reinterpret_cast<int32_t*>(base + w.rows);
  char* hidden = base + w.hidden;
  char* d_hidden = base + w.d_hidden;
  auto* logits = reinterpret_cast<float*>(base + w.logits);
  const size_t row_bytes = static_cast<size_t>(p.hidden_size) * size_of(p.dtype);

  int64_t kept = 0;
  for (int64_t t = 0; t < p.tokens; ++t) {
    if (p.targets[t] != kIgnoreIndex) {
      rows[kept++] = static_cast<int32_t>(t);
      continue;
    }
    p.losses[t] = 0.0f;
    if (p.argmax) p.argmax[t] = -1;
    if (p.d_hidden) std::memset(static_cast<char*>(p.d_hidden) + t * row_bytes, 0, row_bytes);
  }

  const bool backward = p.d_hidden || p.d_weight;
  const int64_t dz_stride =
      w.logits_stride * static_cast<int64_t>(sizeof(float) / size_of(p.dtype));
  for (int64_t begin = 0; begin < kept; begin += w.chunk_rows) {
    const int64_t count = std::min(w.chunk_rows, kept - begin);
    const int32_t* chunk = rows + begin;
    gather_rows(stream, {.count = count,
                         .width = p.hidden_size,
                         .rows = chunk,
                         .x = p.hidden,
                         .out = hidden,
                         .dtype = p.dtype});
    matmul(stream, {.a = hidden,
                    .b = p.weight,
                    .d = logits,
                    .m = count,
                    .n = p.vocab_size,
                    .k = p.hidden_size,
                    .ldd = w.logits_stride,
                    .transpose_b = true,
                    .input_dtype = p.dtype,
                    .output_dtype = DType::f32});
    with_float_type(p.dtype, [&](auto type) {
      using T = decltype(type);
      parallel_for(count, [&](int64_t i) {
        float* z = logits + i * w.logits_stride;
        const int32_t row = chunk[i], target = p.targets[row];
        const Softmax softmax = softmax_of_row(z, p.vocab_size, p.logit_scale);
        p.losses[row] = loss_of(softmax, z[target], p.logit_scale);
        if (p.argmax) p.argmax[row] = static_cast<int32_t>(softmax.argmax);
        if (backward) {
          logits_gradient(z, p.vocab_size, target, softmax, p.logit_scale, p.grad_scale.get(),
                          reinterpret_cast<T*>(z));
        }
      });
    });
    if (p.d_hidden) {
      matmul(stream, {.a = logits,
                      .b = p.weight,
                      .d = d_hidden,
                      .m = count,
                      .n = p.hidden_size,
                      .k = p.vocab_size,
                      .lda = dz_stride,
                      .input_dtype = p.dtype,
                      .output_dtype = p.dtype});
      scatter_rows(stream, {.count = count,
                            .width = p.hidden_size,
                            .rows = chunk,
                            .x = d_hidden,
                            .out = p.d_hidden,
                            .dtype = p.dtype});
    }
    if (p.d_weight) {
      matmul(stream, {.a = logits,
                      .b = hidden,
                      .d = p.d_weight,
                      .m = p.vocab_size,
                      .n = p.hidden_size,
                      .k = count,
                      .lda = dz_stride,
                      .transpose_a = true,
                      .accumulate = true,
                      .input_dtype = p.dtype,
                      .output_dtype = DType::f32});
    }
  }
}

void cross_entropy(Stream, const CrossEntropy& p) {
  const int64_t stride = p.stride ? p.stride : p.classes;
  require(p.rows >= 0 && p.classes > 0 && stride >= p.classes, "cross_entropy: bad shape");
  parallel_for(p.rows, [&](int64_t row) {
    float* z = p.logits + row * stride;
    const int32_t target = p.targets[row];
    if (target == kIgnoreIndex) {
      p.losses[row] = 0.0f;
      if (p.argmax) p.argmax[row] = -1;
      if (p.d_logits) std::fill(z, z + p.classes, 0.0f);
      return;
    }
    const Softmax softmax = softmax_of_row(z, p.classes, 1.0f);
    p.losses[row] = loss_of(softmax, z[target], 1.0f);
    if (p.argmax) p.argmax[row] = static_cast<int32_t>(softmax.argmax);
    if (p.d_logits) logits_gradient(z, p.classes, target, softmax, 1.0f, p.grad_scale.get(), z);
  });
}

}  // namespace cpu
}  // namespace engine::kernels
