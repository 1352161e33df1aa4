// A matrix product out of the tiles of matmul_kernels.h, on all threads.
#pragma once

#include <algorithm>

#include "kernels/cpu/matmul_kernels.h"
#include "kernels/cpu/matmul_output.h"
#include "kernels/cpu/parallel.h"

namespace engine::kernels::cpu {

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
constexpr int64_t round_up(int64_t a, int64_t b) {
  return ceil_div(a, b) * b;
}

// parallel_for, or the same in this thread. Results are alike.
template <typename Body>
void for_each(bool parallel, int64_t count, const Body& body) {
  if (parallel) return parallel_for(count, body);
  for (int64_t i = 0; i < count; ++i) body(i);
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

// A product over the rows of A, some columns of B and a range of k.
struct Product {
  const MatmulKernel& kernel;
  Operand a, b;
  int64_t m, n, k;
  int64_t b_begin, k_begin;  // first column of B, and of k
  Output d;
  int64_t d_column;  // of the product within d
  Ending ending;
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

// Computes the product. A piece of work keeps a block of one operand in the L2 cache and streams
// the other past it:
//   A where it lies (AMX, row-major A): columns of B, packed by the thread that uses them, stay
//     (1 MiB: 672 columns at k = 768); panels of 32 rows of A pass. So Y = X Wt and dX = dY W pack
//     nothing but the weights, once.
//   A packed (fp32, and dW = dYt X): a block of A, packed by the thread that uses it, stays; panels
//     of B pass, which all threads packed before.
// Within a piece k goes by in blocks for which a panel of 32 rows or columns stays in L1 (256
// values of bf16: 16 KiB), with the sums of a strip of tiles in L2 between them. The panel that
// passes next is fetched into L2 meanwhile.
//
// Every element of D is summed over k in the same order whatever the pieces are, so the number of
// threads changes nothing but the time.
void multiply(const Product& product);

}  // namespace engine::kernels::cpu
