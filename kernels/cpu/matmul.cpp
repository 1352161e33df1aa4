// Matrix multiplication out of the tiles of matmul_kernels.h. A piece of work keeps a block of one
// operand in the L2 cache and streams the other past it:
//   A where it lies (AMX, row-major A): columns of B, packed by the thread that uses them, stay;
//     panels of 32 rows of A pass. Y = X Wt and dX = dY W, so nothing but the weights is packed.
//   A packed (fp32, and dW = dYt X): a block of A, packed by the thread that uses it, stays; panels
//     of B pass, which all threads packed before.
// Within a piece k goes by in blocks for which a panel of 32 rows or columns stays in L1 (256
// values of bf16: 16 KiB), with the sums of a 32-row strip in L2 between them.
//
// Every element of D is summed over k in the same order whatever the pieces are, so the number of
// threads changes nothing but the time.
#include "kernels/api/matmul.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <numeric>

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

// Values of B packed at a time, and of sums kept apart. Larger problems are cut up.
constexpr int64_t kMostPacked = int64_t{6} << 20;

// Values of k (a multiple of every k_unit) and panels that are packed together from an operand
// which does not lie along k: whole cache lines of several rows.
constexpr int64_t kPackedTogether = 64, kPanelsTogether = 32;

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

  // Asks for the cache lines of a tile that will be written soon.
  void prefetch(int64_t i, int64_t j, int64_t rows, int64_t columns) const {
    constexpr int64_t kLine = 64;
    const auto size = static_cast<int64_t>(size_of(dtype));
    const char* at = static_cast<const char*>(data) + (i * stride + j) * size;
    for (int64_t row = 0; row < rows; ++row, at += stride * size) {
      for (int64_t byte = 0; byte < columns * size; byte += kLine) __builtin_prefetch(at + byte, 1);
    }
  }

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

// An operand as stored; element (i, p) is row i of A or column i of B, value p of k.
struct Operand {
  const void* data;
  int64_t stride;
  bool k_contiguous;
  DType dtype;

  const char* at(int64_t i, int64_t p) const {
    const int64_t offset = k_contiguous ? i * stride + p : p * stride + i;
    return static_cast<const char*>(data) + offset * static_cast<int64_t>(size_of(dtype));
  }
};

// Panels of an operand.
struct Range {
  int64_t begin, end;
  int64_t count() const { return end - begin; }
};

// A product over the rows of A, some columns of B and a range of k.
struct Product {
  const MatmulKernel& kernel;
  Operand a, b;
  int64_t m, n, k;
  int64_t b_begin, k_begin;  // first column of B, and of k
  Output d;
  int64_t d_column;  // of the product within d
  Bias bias;
  bool accumulate;
  bool parallel;

  int64_t m_panels() const { return ceil_div(m, kernel.mr); }
  int64_t n_panels() const { return ceil_div(n, kernel.nr); }
  int64_t rows(int64_t panel) const { return std::min<int64_t>(kernel.mr, m - panel * kernel.mr); }
  int64_t columns(int64_t panel) const {
    return std::min<int64_t>(kernel.nr, n - panel * kernel.nr);
  }
  int64_t a_panel_bytes() const {
    return kernel.mr * (kernel.reads_rows ? packed_row_bytes(k)
                                          : round_up(k, kernel.k_unit) * kernel.bytes_per_k);
  }
  int64_t a_step() const { return kernel.bytes_per_k * (kernel.reads_rows ? 1 : kernel.mr); }
  int64_t b_panel_bytes() const {
    return round_up(k, kernel.k_unit) * kernel.nr * kernel.bytes_per_k;
  }
  // Whether whole panels of A can be read where they lie: no padding of k, no split cache lines.
  bool reads_rows() const {
    return kernel.reads_rows && a.k_contiguous && k % kernel.k_unit == 0 &&
           a.stride * static_cast<int64_t>(size_of(a.dtype)) % 64 == 0 &&
           reinterpret_cast<uintptr_t>(a.at(0, k_begin)) % 64 == 0;
  }
};

// Packs panels of A or B, values `k` of k. Operands that do not lie along k are read in whole rows,
// a few at a time.
struct PanelsToPack {
  const Product& product;
  bool is_a;
  Range panels, k;
  char* to;  // the first of the panels
};
void pack(const PanelsToPack& job) {
  const Product& p = job.product;
  const MatmulKernel& kernel = p.kernel;
  const Operand& x = job.is_a ? p.a : p.b;
  const int64_t width = job.is_a ? kernel.mr : kernel.nr;
  const int64_t panel_bytes = job.is_a ? p.a_panel_bytes() : p.b_panel_bytes();
  const int64_t step = job.is_a ? p.a_step() : kernel.nr * kernel.bytes_per_k;
  const int64_t slice = x.k_contiguous ? job.k.count() : kPackedTogether;
  for (int64_t k = job.k.begin; k < job.k.end; k += slice) {
    for (int64_t i = job.panels.begin; i < job.panels.end; ++i) {
      const Strip strip{.data = x.at((job.is_a ? 0 : p.b_begin) + i * width, p.k_begin + k),
                        .stride = x.stride,
                        .k_contiguous = x.k_contiguous,
                        .width = job.is_a ? p.rows(i) : p.columns(i),
                        .k = std::min(slice, job.k.end - k),
                        .panel_k = p.k};
      char* to = job.to + (i - job.panels.begin) * panel_bytes + k * step;
      (job.is_a ? kernel.pack_a : kernel.pack_b)(strip, to);
    }
  }
}

struct PanelA {
  const char* data;
  int64_t stride;  // bytes between rows, where they are read
};

// The panel that comes after this strip's passing one, brought into L2 meanwhile.
struct Ahead {
  const char* data = nullptr;
  int64_t rows = 0, stride = 0, row_bytes = 0;  // all in bytes

  void fetch(int64_t part, int64_t parts) const {
    constexpr int64_t kLine = 64;
    if (!data) return;
    const int64_t row_lines = ceil_div(row_bytes, kLine), lines = rows * row_lines;
    int64_t line = lines * part / parts;
    const int64_t end = lines * (part + 1) / parts;
    for (int64_t row = line / row_lines; line < end; ++row) {
      const int64_t row_end = std::min(end, (row + 1) * row_lines);
      const char* at = data + row * stride + (line - row * row_lines) * kLine;
      for (; line < row_end; ++line, at += kLine) __builtin_prefetch(at, 0, 2);
    }
  }
};

// Computes one strip of panels of D; the narrower side should be one panel. `panel_a(i)` gives a
// panel of A, `panel_b(j)` one of B.
template <typename PanelsOfA, typename PanelsOfB>
void multiply_strip(const Product& p, const Range& i_range, const Range& j_range,
                    const PanelsOfA& panel_a, const PanelsOfB& panel_b, const Ahead& ahead) {
  const MatmulKernel& kernel = p.kernel;
  const int64_t mr = kernel.mr, nr = kernel.nr, tile = mr * nr;
  const int64_t k_padded = round_up(p.k, kernel.k_unit);
  const int64_t blocks = k_padded <= kernel.k_single ? 1 : ceil_div(k_padded, kernel.k_block);
  const int64_t block = round_up(ceil_div(k_padded, blocks), kernel.k_unit);
  // Tile registers take D row by row, so it is better touched once than once per block of k.
  const bool in_d = p.d.dtype == DType::f32 && (blocks == 1 || !kernel.reads_rows);
  alignas(64) float single[kMostTile];
  thread_local Scratch scratch;
  float* partial = single;
  if (blocks > 1) {
    partial = static_cast<float*>(scratch.reserve(
        static_cast<size_t>(i_range.count() * j_range.count() * tile) * sizeof(float)));
  }
  const int64_t calls = ceil_div(k_padded, block) * i_range.count() * j_range.count();
  int64_t call = 0;
  for (int64_t k = 0; k < k_padded; k += block) {
    const int64_t k_count = std::min(block, k_padded - k);
    const bool first = k == 0, last = k + k_count == k_padded;
    const bool first_touch_of_d = in_d ? first : last;
    float* sum = partial;
    for (int64_t j = j_range.begin; j < j_range.end; ++j) {
      const char* b = panel_b(j) + k * nr * kernel.bytes_per_k;
      const int64_t columns = p.columns(j), column = p.d_column + j * nr;
      for (int64_t i = i_range.begin; i < i_range.end; ++i) {
        const PanelA a = panel_a(i);
        const int64_t rows = p.rows(i), row = i * mr;
        ahead.fetch(call++, calls);
        if (first_touch_of_d) {
          const bool down = i + 1 < i_range.end;
          const int64_t next_i = down ? i + 1 : i_range.begin, next_j = down ? j : j + 1;
          if (next_j < j_range.end) {
            p.d.prefetch(next_i * mr, p.d_column + next_j * nr, p.rows(next_i), p.columns(next_j));
          }
        }
        TileProduct product{
            .k = k_count, .a = a.data + k * p.a_step(), .a_stride = a.stride, .b = b};
        if (in_d && rows == mr && columns == nr) {
          float* d = p.d.at_f32(row, column);
          product.c = d;
          product.ldc = p.d.stride;
          product.add = !first || p.accumulate;
          kernel.multiply(product);
          if (last && p.bias.data) {
            write_block(d, p.d.stride, rows, columns, p.d, row, column, p.bias, false);
          }
          continue;
        }
        product.c = sum;
        product.ldc = nr;
        product.add = !first;
        kernel.multiply(product);
        if (last) {
          write_block(sum, nr, rows, columns, p.d, row, column, p.bias, p.accumulate);
        }
        if (blocks > 1) sum += tile;
      }
    }
  }
}

// A block of B in L2; rows of A pass where they lie, but for a last panel that needs padding.
void multiply_rows_in_place(const Product& p, const Range& i_range, const Range& j_range) {
  thread_local Scratch a_scratch, b_scratch;
  const int64_t b_panel = p.b_panel_bytes();
  auto* b = static_cast<char*>(b_scratch.reserve(static_cast<size_t>(j_range.count() * b_panel)));
  pack({.product = p, .is_a = false, .panels = j_range, .k = {0, p.k}, .to = b});
  const int64_t lda = p.a.stride * static_cast<int64_t>(size_of(p.a.dtype));
  for (int64_t i = i_range.begin; i < i_range.end; ++i) {
    PanelA a{p.a.at(i * p.kernel.mr, p.k_begin), lda};
    if (p.rows(i) < p.kernel.mr) {
      auto* packed = static_cast<char*>(a_scratch.reserve(static_cast<size_t>(p.a_panel_bytes())));
      pack({.product = p, .is_a = true, .panels = {i, i + 1}, .k = {0, p.k}, .to = packed});
      a = {packed, packed_row_bytes(p.k)};
    }
    multiply_strip(
        p, {i, i + 1}, j_range, [&](int64_t) { return a; },
        [&](int64_t j) { return b + (j - j_range.begin) * b_panel; },
        i + 1 < i_range.end ? Ahead{p.a.at((i + 1) * p.kernel.mr, p.k_begin), p.rows(i + 1), lda,
                                    p.k * static_cast<int64_t>(size_of(p.a.dtype))}
                            : Ahead{});
  }
}

// A block of A in L2, past which panels of B go.
void multiply_packed(const Product& p, const char* b, const Range& i_range, const Range& j_range) {
  thread_local Scratch scratch;
  const int64_t a_panel = p.a_panel_bytes(), b_panel = p.b_panel_bytes();
  auto* a = static_cast<char*>(scratch.reserve(static_cast<size_t>(i_range.count() * a_panel)));
  pack({.product = p, .is_a = true, .panels = i_range, .k = {0, p.k}, .to = a});
  const int64_t stride = packed_row_bytes(p.k);
  for (int64_t j = j_range.begin; j < j_range.end; ++j) {
    multiply_strip(
        p, i_range, {j, j + 1},
        [&](int64_t i) {
          return PanelA{a + (i - i_range.begin) * a_panel, stride};
        },
        [&](int64_t j) { return b + j * b_panel; },
        j + 1 < j_range.end ? Ahead{b + (j + 1) * b_panel, 1, b_panel, b_panel} : Ahead{});
  }
}

// How many parts to cut the panels of both operands into: parts of the operand that stays hold at
// most `most` panels; few parts are made a multiple of the threads, so that all end together.
struct Cut {
  int64_t staying, passing;
};
Cut cut(int64_t staying_panels, int64_t passing_panels, int64_t most, int64_t threads) {
  constexpr int64_t kLeast = 4;  // panels in a part
  Cut parts{ceil_div(staying_panels, std::max<int64_t>(most, 1)), 1};
  if (parts.staying >= 8 * threads || threads == 1) return parts;
  const int64_t even = round_up(parts.staying, threads);
  if (even * kLeast <= staying_panels) {
    parts.staying = even;
  } else {
    parts.passing =
        std::clamp<int64_t>(passing_panels / kLeast, 1, threads / std::gcd(parts.staying, threads));
  }
  return parts;
}

Range part_of(int64_t count, int64_t parts, int64_t part) {
  return {count * part / parts, count * (part + 1) / parts};
}

void multiply(const Product& p) {
  const MatmulKernel& kernel = p.kernel;
  const int64_t threads = p.parallel && !omp_in_parallel() ? omp_get_max_threads() : 1;
  const int64_t m_panels = p.m_panels(), n_panels = p.n_panels();
  if (p.reads_rows()) {
    const Cut parts = cut(n_panels, m_panels, kernel.block_bytes / p.b_panel_bytes(), threads);
    return for_each(p.parallel, parts.staying * parts.passing, [&](int64_t piece) {
      if (kernel.begin) kernel.begin();
      multiply_rows_in_place(p, part_of(m_panels, parts.passing, piece % parts.passing),
                             part_of(n_panels, parts.staying, piece / parts.passing));
      if (kernel.end) kernel.end();
    });
  }
  thread_local Scratch scratch;
  const int64_t b_panel = p.b_panel_bytes();
  const bool b_lies_along_k = p.b.k_contiguous;
  auto* b = static_cast<char*>(scratch.reserve(static_cast<size_t>(n_panels * b_panel)));
  // Units of work of some tens of microseconds: some panels along k, or some k across all panels.
  const int64_t slices = b_lies_along_k ? 1 : ceil_div(p.k, kPackedTogether);
  const int64_t groups = b_lies_along_k ? n_panels : ceil_div(n_panels, kPanelsTogether);
  for_each(p.parallel, slices * groups, [&](int64_t unit) {
    const Range panels = part_of(n_panels, groups, unit % groups);
    const int64_t k = unit / groups * kPackedTogether;
    pack({.product = p,
          .is_a = false,
          .panels = panels,
          .k = {k, b_lies_along_k ? p.k : std::min(p.k, k + kPackedTogether)},
          .to = b + panels.begin * b_panel});
  });
  const Cut parts = cut(m_panels, n_panels, kernel.block_bytes / p.a_panel_bytes(), threads);
  for_each(p.parallel, parts.staying * parts.passing, [&](int64_t piece) {
    if (kernel.begin) kernel.begin();
    multiply_packed(p, b, part_of(m_panels, parts.staying, piece / parts.passing),
                    part_of(n_panels, parts.passing, piece % parts.passing));
    if (kernel.end) kernel.end();
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
                .bias = last && !separate_sums ? bias : Bias{},
                .accumulate = k > 0 || (p.accumulate && !separate_sums),
                .parallel = parallel});
    }
    if (separate_sums) {
      parallel_for_ranges(p.m, 8, [&](int64_t begin, int64_t end) {
        write_block(sums.at_f32(begin, 0), sums.stride, end - begin, n_count, d, begin, n, bias,
                    p.accumulate);
      });
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
