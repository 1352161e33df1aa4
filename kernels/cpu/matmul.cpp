// Matrix multiplication: checks, and problems cut to what the scratch memory may hold; products
// with few rows go to matmul_thin.h, all others to matmul_block.h.
#include "kernels/api/matmul_steps.h"

#include <algorithm>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/matmul_block.h"
#include "kernels/cpu/matmul_thin.h"
#include "kernels/cpu/scratch.h"

namespace engine::kernels::cpu {

namespace {

// Below this many multiplications one thread is done before the others are awake.
constexpr int64_t kFewForThreads = int64_t{1} << 17;

// Values of B packed at a time, and of sums kept apart. Larger problems are cut up.
constexpr int64_t kMostPacked = int64_t{6} << 20;

// k = 0: nothing to multiply, but the bias and the overwriting remain.
void multiply_nothing(const Matmul& p, const Output& d, const Ending& ending) {
  if (p.accumulate && ending.empty()) return;
  constexpr int64_t kColumns = 256;
  parallel_for_ranges(p.m, 16, [&](int64_t begin, int64_t end) {
    const float zeros[kColumns] = {};
    for (int64_t j = 0; j < p.n; j += kColumns) {
      write_block(zeros, 0, end - begin, std::min(kColumns, p.n - j), d, begin, j, ending,
                  p.accumulate);
    }
  });
}

// At most kThinRows rows of A, which lie along k.
template <typename T>
void multiply_thin_rows(const Matmul& p, const Operand& a, const Operand& b, const Output& d,
                        const Ending& ending, bool parallel) {
  thread_local Scratch scratch;
  auto* x = static_cast<float*>(scratch.reserve(static_cast<size_t>(p.m * p.k) * sizeof(float)));
  for (int64_t i = 0; i < p.m; ++i) {
    convert_row(static_cast<const T*>(a.data) + i * a.stride, x + i * p.k, p.k);
  }
  const auto* w = static_cast<const T*>(b.data);
  for_each(parallel, ceil_div(p.n, kThinColumns), [&](int64_t piece) {
    const int64_t begin = piece * kThinColumns, count = std::min(kThinColumns, p.n - begin);
    alignas(64) float sums[kThinRows][kThinColumns];
    const auto multiply = p.m == 1   ? multiply_thin<1, T>
                          : p.m == 2 ? multiply_thin<2, T>
                          : p.m == 3 ? multiply_thin<3, T>
                                     : multiply_thin<4, T>;
    multiply(x, p.k, w, b.stride, b.k_contiguous, begin, count, sums);
    write_block(sums[0], kThinColumns, p.m, count, d, 0, begin, ending, p.accumulate);
  });
}

// A product, or one with a residual: that is added while the tile is in the L1 cache.
void multiply_and_add(const Matmul& p) {
  const MatmulEpilogue& epilogue = p.epilogue;
  const bool add = epilogue.kind == MatmulEpilogue::Kind::add;
  const int64_t a_width = p.transpose_a ? p.m : p.k, b_width = p.transpose_b ? p.k : p.n;
  const Operand a{p.a, p.lda ? p.lda : a_width, !p.transpose_a, p.input_dtype};
  const Operand b{p.b, p.ldb ? p.ldb : b_width, p.transpose_b, p.input_dtype};
  const Output d{p.d, p.ldd ? p.ldd : p.n, add ? epilogue.residual_dtype : p.output_dtype};
  const Ending ending{.bias = p.bias,
                      .bias_dtype = p.input_dtype,
                      .residual = add ? epilogue.residual : nullptr,
                      .residual_stride = p.n,
                      .product_dtype = p.output_dtype};
  if (p.m == 0 || p.n == 0) return;
  if (p.k == 0) return multiply_nothing(p, d, ending);

  const bool parallel = p.m * p.n * p.k > kFewForThreads;
  if (p.m <= kThinRows && !p.transpose_a) {
    return with_float_type(p.input_dtype, [&](auto type) {
      multiply_thin_rows<decltype(type)>(p, a, b, d, ending, parallel);
    });
  }
  const MatmulKernel& kernel = matmul_kernel(p.input_dtype);
  constexpr int64_t kKMultiple = 512;
  const int64_t k_chunk = round_up(ceil_div(p.k, ceil_div(p.k, kernel.k_pass)), kKMultiple);
  const bool several_k = p.k > k_chunk;
  // D in bf16 cannot hold the sums between passes over k; a matrix of whole tiles does.
  const bool separate_sums = several_k && d.dtype == DType::bf16;
  int64_t n_most = kMostPacked / std::min(p.k, k_chunk);
  if (separate_sums) n_most = std::min(n_most, kMostPacked / p.m);
  const int64_t n_chunk = std::max<int64_t>(n_most / kernel.nr, 1) * kernel.nr;
  thread_local Scratch sum_scratch;

  for (int64_t n = 0; n < p.n; n += n_chunk) {
    const int64_t n_count = std::min(n_chunk, p.n - n);
    Output sums = d;
    if (separate_sums) {
      const int64_t rows = round_up(p.m, kernel.mr), columns = round_up(n_count, kernel.nr);
      sums = {sum_scratch.reserve(static_cast<size_t>(rows * columns) * sizeof(float)), columns,
              DType::f32};
    }
    for (int64_t k = 0; k < p.k; k += k_chunk) {
      const int64_t k_count = std::min(k_chunk, p.k - k);
      const bool last = k + k_count == p.k;
      multiply({.kernel = kernel,
                .a = a,
                .b = b,
                .m = p.m,
                .n = n_count,
                .k = k_count,
                .b_begin = n,
                .k_begin = k,
                .d = sums,
                .d_column = separate_sums ? 0 : n,
                .ending = last && !separate_sums ? ending : Ending{},
                .accumulate = k > 0 || (p.accumulate && !separate_sums),
                .parallel = parallel});
    }
    if (separate_sums) {
      parallel_for_ranges(p.m, 8, [&](int64_t begin, int64_t end) {
        write_block(sums.at_f32(begin, 0), sums.stride, end - begin, n_count, d, begin, n, ending,
                    p.accumulate);
      });
    }
  }
}

}  // namespace

void matmul(Stream stream, const Matmul& p) {
  check_matmul(p);
  using Kind = MatmulEpilogue::Kind;
  if (p.epilogue.kind == Kind::none || p.epilogue.kind == Kind::add) return multiply_and_add(p);
  // The other epilogues are steps of their own: elements that meet there lie in different tiles.
  matmul_steps(stream, table(), p, [](Stream, const Matmul& plain) { multiply_and_add(plain); });
}

size_t matmul_workspace(const Matmul& p) {
  return p.epilogue.kind == MatmulEpilogue::Kind::add ? 0 : matmul_steps_workspace(p);
}

}  // namespace engine::kernels::cpu
