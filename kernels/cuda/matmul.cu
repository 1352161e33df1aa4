// Matrix multiplication: checks, and which kernel takes the problem.
//   matmul/wgmma.cu     bf16, Hopper's tensor cores; rows on 16-byte boundaries, not the smallest
//   matmul/mma.cu       bf16, tensor cores by mma.sync (sm_80 and newer)
//   matmul/mma_tf32.cu  fp32 rounded to TF32 there, when allowed; rows on 16-byte boundaries
//   matmul/fma.cu       fp32, exact products and fp32 sums
//   matmul/parts.cu     adds up the parts of a product that was cut along k
#include "kernels/api/matmul_steps.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/matmul/problem.h"

namespace engine::kernels::ENGINE_GPU {
namespace {

// Do all rows of this matrix start on 16-byte boundaries?
bool on_vectors(const void* data, int64_t stride, DType dtype) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 &&
         stride * static_cast<int64_t>(size_of(dtype)) % 16 == 0;
}

enum class Unit : uint8_t { bf16, tf32, fp32 };

Unit unit_of(const Matmul& p, const MatmulProblem& problem) {
  if (p.input_dtype == DType::bf16) return Unit::bf16;
  const bool products_of_transformers = !(p.transpose_a && p.transpose_b);
  return p.allow_tf32 && problem.vectors_a && problem.vectors_b && products_of_transformers
             ? Unit::tf32
             : Unit::fp32;
}

void multiply(Stream stream, const MatmulProblem& problem, Unit unit) {
  if (unit == Unit::tf32) return matmul_tf32(stream, problem);
  if (unit == Unit::fp32) return matmul_fma(stream, problem);
  if (!matmul_wgmma(stream, problem)) matmul_mma(stream, problem);
}

// --- Parts of k (matmul/parts.cu) --------------------------------------------------------------

// Sums of a part lie in whole tiles of rows, each on 16-byte boundaries.
int64_t part_rows(int64_t m) {
  return ceil_div<int64_t>(m, 128) * 128;
}
int64_t part_columns(int64_t n) {
  return ceil_div<int64_t>(n, 4) * 4;
}
int part_depth(int64_t k, int parts) {
  return static_cast<int>(ceil_div<int64_t>(ceil_div<int64_t>(k, parts), 64) * 64);
}
int64_t tiles_of(int64_t m, int64_t n) {
  return ceil_div<int64_t>(m, 128) * ceil_div<int64_t>(n, 128);
}

// By the shape alone, for the workspace: at least 512 of k in each, 64 MiB in all; from 512 tiles
// on, GPUs are busy without.
int most_parts(int64_t m, int64_t n, int64_t k) {
  constexpr int64_t kMost = 16, kShortest = 512, kBytes = int64_t{64} << 20;
  if (m == 0 || n == 0 || tiles_of(m, n) >= 512) return 1;
  int64_t parts = k / kShortest < kMost ? k / kShortest : kMost;
  const int64_t fitting = kBytes / (part_rows(m) * part_columns(n) * 4);
  if (parts > fitting) parts = fitting;
  return parts < 2 ? 1 : static_cast<int>(parts);
}

// What takes least cycles: waves of 128 x 128 tiles, then adding the parts up at 20 bytes per cycle
// and multiprocessor. Parts must be worth their while.
int choose_parts(Stream stream, const MatmulProblem& p, Unit unit) {
  const int most = most_parts(p.m, p.n, p.k), available = multiprocessors(stream);
  const double cycles_per_k = unit == Unit::fp32                 ? 128
                              : unit == Unit::tf32               ? 32
                              : compute_capability(stream) == 90 ? 8
                                                                 : 16;
  const auto cycles = [&](int parts) {
    const int64_t waves = ceil_div<int64_t>(parts * tiles_of(p.m, p.n), available);
    const int64_t k = parts == 1 ? p.k : part_depth(p.k, parts);
    const double sum = parts == 1 ? 0.0 : 3000.0 + 8.0 * parts * p.m * p.n / (20.0 * available);
    return static_cast<double>(waves) * (static_cast<double>(k) * cycles_per_k + 2000.0) + sum;
  };
  int best = 1;
  double least = 0.9 * cycles(1);
  for (int parts = 2; parts <= most; ++parts) {
    if (cycles(parts) < least) {
      best = parts;
      least = cycles(parts);
    }
  }
  return best;
}

MatmulFinish finish_of(const Matmul& p) {
  using Kind = MatmulEpilogue::Kind;
  const MatmulEpilogue& e = p.epilogue;
  MatmulFinish finish{.activation = e.activation,
                      .gated = e.gated && e.kind != Kind::add,
                      .wide = p.output_dtype == DType::bf16 && e.residual_dtype == DType::f32,
                      .residual = e.residual,
                      .x = e.x};
  switch (e.kind) {
    case Kind::none:
      break;
    case Kind::add:
      finish.kind = MatmulFinish::Kind::add;
      finish.vectors = on_vectors(e.residual, p.n, e.residual_dtype);
      break;
    case Kind::activation:
      finish.kind = MatmulFinish::Kind::activation;
      if (!e.keep_x) finish.x = nullptr;
      finish.vectors = on_vectors(e.x, e.gated ? p.n / 2 : p.n, p.output_dtype);
      break;
    case Kind::activation_gradient:
      finish.kind = MatmulFinish::Kind::activation_gradient;
      finish.vectors = on_vectors(e.x, p.n, p.output_dtype);
      break;
  }
  return finish;
}

void run(Stream stream, const Matmul& p, const DeviceExtent& extent, const MatmulFinish& finish) {
  check_matmul(p);
  // A tile beyond the edge must not overflow either.
  constexpr int64_t kLargest = INT32_MAX - 1024;
  require(p.m <= kLargest && p.n <= kLargest && p.k <= kLargest,
          "matmul: a size does not fit 32 bits");
  const int64_t a_width = p.transpose_a ? p.m : p.k, b_width = p.transpose_b ? p.k : p.n;
  const int64_t lda = p.lda ? p.lda : a_width, ldb = p.ldb ? p.ldb : b_width;
  const int64_t ldd = p.ldd ? p.ldd : matmul_output_columns(p);
  const DType d_dtype =
      finish.kind == MatmulFinish::Kind::add ? p.epilogue.residual_dtype : p.output_dtype;
  if (p.m == 0 || p.n == 0) return;

  // Where pairs of columns meet, the second half of a row of B is read on its own.
  const int64_t b_step = finish.pairs() && !p.transpose_b ? p.n / 2 : ldb;
  const MatmulProblem problem{
      .a = p.a,
      .b = p.b,
      .bias = p.bias,
      .d = p.d,
      .m = static_cast<int>(p.m),
      .n = static_cast<int>(p.n),
      .k = static_cast<int>(p.k),
      .lda = lda,
      .ldb = ldb,
      .ldd = ldd,
      .transpose_a = p.transpose_a,
      .transpose_b = p.transpose_b,
      .accumulate = p.accumulate,
      .output_bf16 = p.output_dtype == DType::bf16,
      .vectors_a = on_vectors(p.a, lda, p.input_dtype),
      .vectors_b = on_vectors(p.b, ldb, p.input_dtype) && on_vectors(p.b, b_step, p.input_dtype),
      .vectors_d = on_vectors(p.d, ldd, d_dtype),
      .extent = extent,
      .finish = finish};
  const Unit unit = unit_of(p, problem);
  // An epilogue needs whole sums.
  const bool may_split = p.workspace && finish.kind == MatmulFinish::Kind::none;
  const int parts = may_split ? choose_parts(stream, problem, unit) : 1;
  if (parts == 1) return multiply(stream, problem, unit);
  MatmulProblem split = problem;
  split.d = p.workspace;
  split.ldd = part_columns(p.n);
  split.part_stride = part_rows(p.m) * split.ldd;
  split.part_k = part_depth(p.k, parts);
  split.parts = ceil_div(problem.k, split.part_k);
  split.bias = nullptr;
  split.accumulate = split.output_bf16 = false;
  split.vectors_d = true;
  multiply(stream, split, unit);
  matmul_sum_parts(stream, problem, split, p.input_dtype);
}

}  // namespace

void matmul_within(Stream stream, const Matmul& p, const DeviceExtent& extent) {
  run(stream, p, extent, finish_of(p));
}

void matmul_within(Stream stream, const Matmul& p, const DeviceExtent& extent,
                   const SoftmaxParts& softmax) {
  require(p.epilogue.kind == MatmulEpilogue::Kind::none && !p.accumulate &&
              p.output_dtype == DType::f32,
          "matmul: parts of the softmax are of fp32 logits");
  run(stream, p, extent,
      {.kind = MatmulFinish::Kind::softmax,
       .parts = softmax.parts,
       .part_stride = softmax.part_stride,
       .scale = softmax.scale});
}

size_t matmul_workspace(const Matmul& p) {
  if (p.epilogue.kind != MatmulEpilogue::Kind::none) return 0;
  const int parts = most_parts(p.m, p.n, p.k);
  if (parts == 1) return 0;
  return static_cast<size_t>(parts * part_rows(p.m) * part_columns(p.n)) * sizeof(float);
}

void matmul(Stream stream, const Matmul& arguments) {
  matmul_within(stream, arguments, {});
}

}  // namespace engine::kernels::ENGINE_GPU
