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
// chunk. Maximum and sum of a row are made of the parts that the product notes of every 32 logits
// while it has them (8 bytes written and read: ½ a byte per logit), so that the loss kernel reads
// logits once, for dz. To read them twice cost 4 bytes more per logit where the rows in work (one
// per multiprocessor and 4 bytes per class: 68 MB on an H100 with 128256 classes) do not fit into
// L2.
//
// Without a gradient (evaluation) the parts are all that the loss needs, but for the target's logit
// and, for argmax, the 32 logits of the first part that has the largest: logits are written, 4 bytes
// each, and but for those 33 of a row not read. They are written all the same: of Llama 3.2 1B that
// is 4.2 GB or 1.0 ms in 8192 tokens, whose evaluation multiplies for 26 ms, by bulk stores that the
// next tile's products run beside. To leave them out, three kernels' epilogues would have to read a
// target per row and 32 columns and carry the place of the largest through their shuffles, in every
// training step too, to spare a chunk of workspace that a training run has anyway.
#include "kernels/cuda/cross_entropy/loss.h"
#include "kernels/cuda/cross_entropy/targets.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/matmul/problem.h"

namespace engine::kernels::ENGINE_GPU {
namespace {

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
  size_t count, rows, hidden, d_hidden, logits, parts, matmul, bytes;
};

// d_hidden of a chunk: few elements, and a vocabulary to sum over.
Matmul d_hidden_product(const LinearCrossEntropy& p, int64_t chunk_rows) {
  return {.m = chunk_rows,
          .n = p.hidden_size,
          .k = p.vocab_size,
          .input_dtype = p.dtype,
          .output_dtype = p.dtype,
          .allow_tf32 = p.allow_tf32};
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
  w.parts = part(w.chunk_rows * (w.logits_stride / kSoftmaxPartColumns), sizeof(SoftmaxPart));
  w.matmul = part(static_cast<int64_t>(matmul_workspace(d_hidden_product(p, w.chunk_rows))), 1);
  return w;
}

void run(Stream stream, const LinearCrossEntropy& p) {
  const Workspace w = workspace_of(p);
  auto* const base = static_cast<char*>(p.workspace);
  auto* const count = reinterpret_cast<int32_t*>(base + w.count);
  auto* const rows = reinterpret_cast<int32_t*>(base + w.rows);
  auto* const logits = reinterpret_cast<float*>(base + w.logits);
  auto* const parts = reinterpret_cast<SoftmaxPart*>(base + w.parts);
  const int64_t part_stride = w.logits_stride / kSoftmaxPartColumns;
  void* const hidden = base + w.hidden;
  void* const d_hidden = base + w.d_hidden;
  const int tokens = static_cast<int>(p.tokens), width = static_cast<int>(p.hidden_size);
  const int64_t row_bytes = p.hidden_size * static_cast<int64_t>(size_of(p.dtype));
  list_targets(stream, {p.targets, rows, count, tokens});
  clear_ignored(
      stream,
      {p.targets, p.losses, p.argmax, p.d_hidden, tokens, width, on_vectors(p.d_hidden, row_bytes)},
      p.dtype);

  const bool backward = p.d_hidden || p.d_weight;
  const int64_t dz_stride =
      w.logits_stride * static_cast<int64_t>(sizeof(float) / size_of(p.dtype));
  for (int64_t begin = 0; begin < p.tokens; begin += w.chunk_rows) {
    const int64_t left = p.tokens - begin;
    const int64_t chunk_rows = left < w.chunk_rows ? left : w.chunk_rows;
    const auto first = static_cast<int32_t>(begin);
    using Of = DeviceExtent::Of;
    const auto move = [&](const void* from, void* to, bool scatter) {
      move_rows(stream,
                {rows + begin, count, first, static_cast<int>(chunk_rows), width, from, to, scatter,
                 on_vectors(from, row_bytes) && on_vectors(to, row_bytes)},
                p.dtype);
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
                   .output_dtype = DType::f32,
                   .allow_tf32 = p.allow_tf32},
                  {Of::m, first, count}, {parts, part_stride, p.logit_scale});
    cross_entropy_rows(stream,
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
                        .vectors = true,
                        .parts = parts,
                        .part_stride = part_stride},
                       chunk_rows, p.dtype);
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
                     .output_dtype = DType::f32,
                     .allow_tf32 = p.allow_tf32},
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
  run(stream, p);
}

void cross_entropy(Stream stream, const CrossEntropy& p) {
  const int64_t stride = p.stride ? p.stride : p.classes;
  require(p.rows >= 0 && p.classes > 0 && stride >= p.classes, "cross_entropy: bad shape");
  require(p.rows <= INT32_MAX && p.classes <= INT32_MAX - 65536,
          "cross_entropy: a size does not fit 32 bits");
  cross_entropy_rows(stream,
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
                     p.rows, DType::f32);
}

}  // namespace engine::kernels::ENGINE_GPU
