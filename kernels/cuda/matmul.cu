// Matrix multiplication: checks, and which kernel takes the problem.
//   matmul/wgmma.cu bf16, Hopper's tensor cores; rows on 16-byte boundaries, not the smallest
//   matmul/mma.cu   bf16, tensor cores by mma.sync (sm_80 and newer)
//   matmul/fma.cu   fp32, exact products and fp32 sums
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/matmul/problem.h"
#include "kernels/cuda/matmul/wgmma.h"

namespace engine::kernels::ENGINE_GPU {
namespace {

// Builds for other GPUs alone have no Hopper kernels.
bool on_hopper([[maybe_unused]] Stream stream, [[maybe_unused]] const MatmulProblem& problem) {
#if ENGINE_HAS_HOPPER
  return compute_capability(stream) == 90 && matmul_wgmma(stream, problem);
#else
  return false;
#endif
}

// Do all rows of this matrix start on 16-byte boundaries?
bool on_vectors(const void* data, int64_t stride, DType dtype) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 &&
         stride * static_cast<int64_t>(size_of(dtype)) % 16 == 0;
}

}  // namespace

void matmul_within(Stream stream, const Matmul& p, const DeviceExtent& extent) {
  require(p.m >= 0 && p.n >= 0 && p.k >= 0, "matmul: negative size");
  // A tile beyond the edge must not overflow either.
  constexpr int64_t kLargest = INT32_MAX - 1024;
  require(p.m <= kLargest && p.n <= kLargest && p.k <= kLargest,
          "matmul: a size does not fit 32 bits");
  require(p.input_dtype == DType::f32 || p.input_dtype == DType::bf16,
          "matmul: inputs must be f32 or bf16");
  require(p.output_dtype == DType::f32 || p.output_dtype == DType::bf16,
          "matmul: the output must be f32 or bf16");
  const int64_t a_width = p.transpose_a ? p.m : p.k, b_width = p.transpose_b ? p.k : p.n;
  const int64_t lda = p.lda ? p.lda : a_width, ldb = p.ldb ? p.ldb : b_width;
  const int64_t ldd = p.ldd ? p.ldd : p.n;
  require(lda >= a_width && ldb >= b_width && ldd >= p.n,
          "matmul: a leading dimension is smaller than the row");
  if (p.m == 0 || p.n == 0) return;

  const MatmulProblem problem{.a = p.a,
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
                              .vectors_b = on_vectors(p.b, ldb, p.input_dtype),
                              .vectors_d = on_vectors(p.d, ldd, p.output_dtype),
                              .extent = extent};
  if (p.input_dtype == DType::f32) {
    matmul_fma(stream, problem);
  } else if (!on_hopper(stream, problem)) {
    matmul_mma(stream, problem);
  }
}

void matmul(Stream stream, const Matmul& arguments) {
  matmul_within(stream, arguments, {});
}

}  // namespace engine::kernels::ENGINE_GPU
