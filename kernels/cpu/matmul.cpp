// Matrix multiplication: operands are packed into panels (matmul_kernels.h), then pieces of the
// result are computed by all threads. Every element of D is summed over k in the same order
// whatever the pieces are, so the number of threads changes nothing but the time.
#include "kernels/api/matmul.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/matmul_kernels.h"
#include "kernels/cpu/matmul_thin.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector_math.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace engine::kernels::cpu {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
constexpr int64_t round_up(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}

// Scratch of a thread that calls matmul, kept between calls: packing into fresh pages would cost
// as much as the multiplication. Its size is bounded by kMostPacked below.
class Scratch {
 public:
  void* reserve(size_t bytes) {
    if (bytes > capacity_) {
      constexpr size_t kHugePage = size_t{2} << 20;
      const size_t align = bytes >= kHugePage ? kHugePage : 64;
      const size_t size = (bytes + align - 1) / align * align;
      memory_.reset(std::aligned_alloc(align, size));
      capacity_ = memory_ ? size : 0;
      if (!memory_) throw std::bad_alloc();
#if defined(__linux__)
      if (align == kHugePage) madvise(memory_.get(), size, MADV_HUGEPAGE);
#endif
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory_;
  size_t capacity_ = 0;
};

// Below this many multiplications one thread is done before the others are awake.
constexpr int64_t kFewForThreads = int64_t{1} << 17;

// parallel_for, or the same in this thread. Results are alike.
template <typename Body>
void for_each(bool parallel, int64_t count, const Body& body) {
  if (parallel) return parallel_for(count, body);
  for (int64_t i = 0; i < count; ++i) body(i);
}

// Values of each operand packed at a time, and of k in one pass. Larger problems are cut up.
constexpr int64_t kMostPacked = int64_t{6} << 20;
constexpr int64_t kMostK = 4096;

// The largest piece of D that one call of multiply writes, in floats.
constexpr int64_t kMostTile = 32 * 32;

// D(rows, columns) (+)= acc (+ bias); T is the type of D, `Bias` of the bias.
template <typename T, typename Bias>
void write_block(const float* acc, int64_t acc_stride, int64_t rows, int64_t columns, T* d,
                 int64_t ldd, const Bias* bias, bool accumulate) {
  for (int64_t i = 0; i < rows; ++i, acc += acc_stride, d += ldd) {
    for_vectors(columns, [&](int64_t j, auto lanes) {
      F32x16 v = load(acc + j, lanes);
      if (bias) v += load(bias + j, lanes);
      if (accumulate) v += load(d + j, lanes);
      store(d + j, v, lanes);
    });
  }
}

// A matrix of either type that results are written to.
struct Output {
  void* data = nullptr;
  int64_t stride = 0;
  DType dtype = DType::f32;

  float* at_f32(int64_t i, int64_t j) const { return static_cast<float*>(data) + i * stride + j; }
  BFloat16* at_bf16(int64_t i, int64_t j) const {
    return static_cast<BFloat16*>(data) + i * stride + j;
  }
};

struct Bias {
  const void* data = nullptr;
  DType dtype = DType::f32;
};

template <typename T>
void write_block(const float* acc, int64_t acc_stride, int64_t rows, int64_t columns, T* d,
                 int64_t ldd, const Bias& bias, int64_t column, bool accumulate) {
  if (bias.dtype == DType::bf16) {
    const auto* values = static_cast<const BFloat16*>(bias.data);
    write_block(acc, acc_stride, rows, columns, d, ldd, values ? values + column : values,
                accumulate);
  } else {
    const auto* values = static_cast<const float*>(bias.data);
    write_block(acc, acc_stride, rows, columns, d, ldd, values ? values + column : values,
                accumulate);
  }
}

void write_block(const float* acc, int64_t acc_stride, int64_t rows, int64_t columns,
                 const Output& d, int64_t row, int64_t column, const Bias& bias, bool accumulate) {
  if (d.dtype == DType::f32) {
    write_block(acc, acc_stride, rows, columns, d.at_f32(row, column), d.stride, bias, column,
                accumulate);
  } else {
    write_block(acc, acc_stride, rows, columns, d.at_bf16(row, column), d.stride, bias, column,
                accumulate);
  }
}

// One product of packed operands.
struct PackedProduct {
  const MatmulKernel& kernel;
  const char* a;    // panels of mr rows
  const char* b;    // panels of nr columns
  int64_t m, n, k;  // k padded to the kernel's unit
  Output d;
  int64_t row, column;  // of the product within d
  Bias bias;
  bool accumulate;
  bool parallel;
};

// Computes the panels [i_begin, i_end) x [j_begin, j_end) of a product. `partial` holds one tile
// per pair of panels when k takes several blocks and D cannot hold the sums.
void multiply_piece(const PackedProduct& p, int64_t i_begin, int64_t i_end, int64_t j_begin,
                    int64_t j_end) {
  const MatmulKernel& kernel = p.kernel;
  const int64_t mr = kernel.mr, nr = kernel.nr, tile = mr * nr;
  const int64_t a_panel = p.k * mr * kernel.bytes_per_k;
  const int64_t b_panel = p.k * nr * kernel.bytes_per_k;
  const int64_t blocks = std::max<int64_t>(1, ceil_div(p.k, kernel.k_block));
  const int64_t block = round_up(ceil_div(p.k, blocks), kernel.k_unit);
  alignas(64) float single[kMostTile];
  thread_local Scratch scratch;
  float* partial = single;
  if (blocks > 1) {
    const size_t tiles = static_cast<size_t>((i_end - i_begin) * (j_end - j_begin));
    partial = static_cast<float*>(scratch.reserve(tiles * tile * sizeof(float)));
  }
  if (kernel.begin) kernel.begin();
  for (int64_t k_begin = 0; k_begin < p.k; k_begin += block) {
    const int64_t k_count = std::min(block, p.k - k_begin);
    const bool first = k_begin == 0, last = k_begin + k_count == p.k;
    for (int64_t j = j_begin; j < j_end; ++j) {
      const char* b = p.b + j * b_panel + k_begin * nr * kernel.bytes_per_k;
      const int64_t columns = std::min(nr, p.n - j * nr), column = p.column + j * nr;
      for (int64_t i = i_begin; i < i_end; ++i) {
        const char* a = p.a + i * a_panel + k_begin * mr * kernel.bytes_per_k;
        const int64_t rows = std::min(mr, p.m - i * mr), row = p.row + i * mr;
        if (p.d.dtype == DType::f32 && rows == mr && columns == nr) {
          float* d = p.d.at_f32(row, column);
          kernel.multiply(k_count, a, b, d, p.d.stride, !first || p.accumulate);
          if (last && p.bias.data) {
            write_block(d, p.d.stride, rows, columns, p.d, row, column, p.bias, false);
          }
          continue;
        }
        float* sum = single;
        if (blocks > 1) sum = partial + ((j - j_begin) * (i_end - i_begin) + i - i_begin) * tile;
        kernel.multiply(k_count, a, b, sum, nr, !first);
        if (last) {
          write_block(sum, nr, rows, columns, p.d, row, column, p.bias, p.accumulate);
        }
      }
    }
  }
  if (kernel.end) kernel.end();
}

void multiply_packed(const PackedProduct& p) {
  const int64_t m_panels = ceil_div(p.m, p.kernel.mr), n_panels = ceil_div(p.n, p.kernel.nr);
  int64_t i_step = std::min<int64_t>(p.kernel.m_panels, m_panels);
  int64_t j_step = std::min<int64_t>(p.kernel.n_panels, n_panels);
  // Enough pieces that the last ones do not leave threads idle for long.
  const int64_t enough = omp_in_parallel() || !p.parallel ? 1 : 8 * omp_get_max_threads();
  const auto pieces = [&] { return ceil_div(m_panels, i_step) * ceil_div(n_panels, j_step); };
  while (pieces() < enough && i_step * j_step > 1) {
    const bool cut_rows =
        j_step == 1 || (i_step > 1 && i_step * p.kernel.mr >= j_step * p.kernel.nr);
    (cut_rows ? i_step : j_step) /= 2;
  }
  const int64_t i_pieces = ceil_div(m_panels, i_step);
  for_each(p.parallel, pieces(), [&](int64_t piece) {
    const int64_t i = piece % i_pieces * i_step, j = piece / i_pieces * j_step;
    multiply_piece(p, i, std::min(i + i_step, m_panels), j, std::min(j + j_step, n_panels));
  });
}

// An operand as stored; element (i, p) is row i of A or column i of B, value p of k.
struct Operand {
  const void* data;
  int64_t stride;
  bool k_contiguous;
  DType dtype;
};

// Packs rows [begin, begin + count) and values [k_begin, k_begin + k) of an operand.
struct PackRange {
  int64_t begin, count, k_begin, k;
  bool parallel;
};
void pack_operand(const MatmulKernel& kernel, bool is_a, const Operand& x, const PackRange& range,
                  char* to) {
  const int64_t panel = is_a ? kernel.mr : kernel.nr;
  const int64_t panels = ceil_div(range.count, panel);
  const auto pack = is_a ? kernel.pack_a : kernel.pack_b;
  // A multiple of every k_unit; a unit of work of a few microseconds.
  constexpr int64_t kSlice = 512;
  const int64_t k_padded = round_up(range.k, kernel.k_unit);
  const int64_t slices = ceil_div(range.k, kSlice);
  for_each(range.parallel, panels * slices, [&](int64_t unit) {
    const int64_t i = unit / slices * panel, p = unit % slices * kSlice;
    const int64_t row = range.begin + i, k = range.k_begin + p;
    const int64_t offset = x.k_contiguous ? row * x.stride + k : k * x.stride + row;
    pack({.data = static_cast<const char*>(x.data) + offset * size_of(x.dtype),
          .stride = x.stride,
          .k_contiguous = x.k_contiguous,
          .width = std::min(panel, range.count - i),
          .k = std::min(kSlice, range.k - p)},
         to + (i * k_padded + p * panel) * kernel.bytes_per_k);
  });
}

// k = 0: nothing to multiply, but the bias and the overwriting remain.
void multiply_nothing(const Matmul& p, const Output& d, const Bias& bias) {
  if (p.accumulate && !bias.data) return;
  constexpr int64_t kColumns = 256;
  parallel_for_ranges(p.m, 16, [&](int64_t begin, int64_t end) {
    const float zeros[kColumns] = {};
    for (int64_t j = 0; j < p.n; j += kColumns) {
      write_block(zeros, 0, end - begin, std::min(kColumns, p.n - j), d, begin, j, bias,
                  p.accumulate);
    }
  });
}

// At most kThinRows rows of A, which lie along k.
template <typename T>
void multiply_thin_rows(const Matmul& p, const Operand& a, const Operand& b, const Output& d,
                        const Bias& bias, bool parallel) {
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
    write_block(sums[0], kThinColumns, p.m, count, d, 0, begin, bias, p.accumulate);
  });
}

}  // namespace

void matmul(Stream, const Matmul& p) {
  require(p.m >= 0 && p.n >= 0 && p.k >= 0, "matmul: negative size");
  require(p.input_dtype == DType::f32 || p.input_dtype == DType::bf16,
          "matmul: inputs must be f32 or bf16");
  require(p.output_dtype == DType::f32 || p.output_dtype == DType::bf16,
          "matmul: the output must be f32 or bf16");
  const int64_t a_width = p.transpose_a ? p.m : p.k, b_width = p.transpose_b ? p.k : p.n;
  const Operand a{p.a, p.lda ? p.lda : a_width, !p.transpose_a, p.input_dtype};
  const Operand b{p.b, p.ldb ? p.ldb : b_width, p.transpose_b, p.input_dtype};
  const Output d{p.d, p.ldd ? p.ldd : p.n, p.output_dtype};
  require(a.stride >= a_width && b.stride >= b_width && d.stride >= p.n,
          "matmul: a leading dimension is smaller than the row");
  const Bias bias{p.bias, p.input_dtype};
  if (p.m == 0 || p.n == 0) return;
  if (p.k == 0) return multiply_nothing(p, d, bias);

  const bool parallel = p.m * p.n * p.k > kFewForThreads;
  if (p.m <= kThinRows && !p.transpose_a) {
    return with_float_type(p.input_dtype, [&](auto type) {
      multiply_thin_rows<decltype(type)>(p, a, b, d, bias, parallel);
    });
  }
  const MatmulKernel& kernel = matmul_kernel(p.input_dtype);
  const int64_t k_chunk = round_up(ceil_div(p.k, ceil_div(p.k, kMostK)), 512);
  const bool several_k = p.k > k_chunk;
  const int64_t k_most = round_up(std::min(p.k, k_chunk), kernel.k_unit);
  const int64_t m_chunk = std::min(p.m, kMostPacked / k_most / kernel.mr * kernel.mr);
  const int64_t n_chunk = std::min(p.n, kMostPacked / k_most / kernel.nr * kernel.nr);
  thread_local Scratch a_scratch, b_scratch, sum_scratch;
  auto* a_packed = static_cast<char*>(a_scratch.reserve(
      static_cast<size_t>(round_up(m_chunk, kernel.mr) * k_most * kernel.bytes_per_k)));
  auto* b_packed = static_cast<char*>(b_scratch.reserve(
      static_cast<size_t>(round_up(n_chunk, kernel.nr) * k_most * kernel.bytes_per_k)));

  for (int64_t m = 0; m < p.m; m += m_chunk) {
    const int64_t m_count = std::min(m_chunk, p.m - m);
    for (int64_t n = 0; n < p.n; n += n_chunk) {
      const int64_t n_count = std::min(n_chunk, p.n - n);
      // D in bf16 cannot hold the sums between passes over k; a matrix of whole tiles does.
      const bool separate_sums = several_k && d.dtype == DType::bf16;
      Output sums = d;
      if (separate_sums) {
        const int64_t rows = round_up(m_count, kernel.mr), columns = round_up(n_count, kernel.nr);
        sums = {sum_scratch.reserve(static_cast<size_t>(rows * columns) * sizeof(float)), columns,
                DType::f32};
      }
      for (int64_t k = 0; k < p.k; k += k_chunk) {
        const int64_t k_count = std::min(k_chunk, p.k - k);
        const bool last = k + k_count == p.k;
        if (several_k || n == 0) {
          pack_operand(kernel, true, a, {m, m_count, k, k_count, parallel}, a_packed);
        }
        pack_operand(kernel, false, b, {n, n_count, k, k_count, parallel}, b_packed);
        multiply_packed({.kernel = kernel,
                         .a = a_packed,
                         .b = b_packed,
                         .m = m_count,
                         .n = n_count,
                         .k = round_up(k_count, kernel.k_unit),
                         .d = sums,
                         .row = separate_sums ? 0 : m,
                         .column = separate_sums ? 0 : n,
                         .bias = last && !separate_sums ? bias : Bias{},
                         .accumulate = k > 0 || (p.accumulate && !separate_sums),
                         .parallel = parallel});
      }
      if (separate_sums) {
        parallel_for_ranges(m_count, 8, [&](int64_t begin, int64_t end) {
          write_block(sums.at_f32(begin, 0), sums.stride, end - begin, n_count, d, m + begin, n,
                      bias, p.accumulate);
        });
      }
    }
  }
}

namespace {

// Sums 64 columns at a time; runs of rows are summed apart first, which keeps the rounding error
// of a sum over many tokens small.
template <typename T>
void column_sum(const T* x, int64_t rows, int64_t columns, int64_t stride, bool accumulate,
                float* out) {
  constexpr int64_t kWidth = 4 * kLanes, kRun = 64;
  parallel_for_ranges(columns, kWidth, [&](int64_t begin, int64_t end) {
    float total[kWidth] = {}, run[kWidth];
    const int64_t width = end - begin;
    for (int64_t first = 0; first < rows; first += kRun) {
      const int64_t last = std::min(first + kRun, rows);
      for_vectors(width, [&](int64_t j, auto lanes) {
        F32x16 sum = {};
        for (int64_t i = first; i < last; ++i) sum += load(x + i * stride + begin + j, lanes);
        store(run + j, sum, lanes);
      });
      for (int64_t j = 0; j < width; ++j) total[j] += run[j];
    }
    for (int64_t j = 0; j < width; ++j) {
      out[begin + j] = accumulate ? out[begin + j] + total[j] : total[j];
    }
  });
}

}  // namespace

void column_sum(Stream, const ColumnSum& p) {
  const int64_t stride = p.ld ? p.ld : p.columns;
  require(p.rows >= 0 && p.columns >= 0 && stride >= p.columns, "column_sum: bad shape");
  with_float_type(p.dtype, [&](auto type) {
    using T = decltype(type);
    column_sum(static_cast<const T*>(p.x), p.rows, p.columns, stride, p.accumulate, p.out);
  });
}

}  // namespace engine::kernels::cpu
