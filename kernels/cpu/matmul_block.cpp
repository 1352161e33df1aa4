// How a product is cut into pieces that suit the caches (matmul_block.h).
#include "kernels/cpu/matmul_block.h"

#include <numeric>

#include "kernels/cpu/scratch.h"

namespace engine::kernels::cpu {

namespace {

// Values of k (a multiple of every k_unit) and panels that are packed together from an operand
// which does not lie along k: whole cache lines of several rows.
constexpr int64_t kPackedTogether = 64, kPanelsTogether = 32;

// The largest piece of D that one call of multiply writes, in floats.
constexpr int64_t kMostTile = 32 * 32;

// Panels of an operand.
struct Range {
  int64_t begin, end;
  int64_t count() const { return end - begin; }
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
          if (last && !p.ending.empty()) {
            write_block(d, p.d.stride, rows, columns, p.d, row, column, p.ending, false);
          }
          continue;
        }
        product.c = sum;
        product.ldc = nr;
        product.add = !first;
        kernel.multiply(product);
        if (last) {
          write_block(sum, nr, rows, columns, p.d, row, column, p.ending, p.accumulate);
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

}  // namespace

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

}  // namespace engine::kernels::cpu
