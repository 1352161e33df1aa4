#pragma once

#include <algorithm>
#include <vector>

#include "tests/kernels/reference/rounding.h"

namespace engine::kernels::testing::reference {

struct MatmulInputs {
  int64_t m, n, k;
  int64_t lda, ldb;
  bool transpose_a, transpose_b;
};

// op(A) op(B) as [m, n], dense, with sums in Real.
template <typename Real>
Values matmul(const MatmulInputs& in, const Values& a, const Values& b) {
  // B as [k, n], so that the inner loop runs along rows; each sum still goes over k in order
  std::vector<Real> columns(static_cast<size_t>(in.k * in.n)), sum(static_cast<size_t>(in.n));
  for (int64_t p = 0; p < in.k; ++p) {
    for (int64_t j = 0; j < in.n; ++j) {
      columns[p * in.n + j] =
          static_cast<Real>(b[in.transpose_b ? j * in.ldb + p : p * in.ldb + j]);
    }
  }
  Values d;
  for (int64_t i = 0; i < in.m; ++i) {
    std::fill(sum.begin(), sum.end(), Real(0));
    for (int64_t p = 0; p < in.k; ++p) {
      const Real x = static_cast<Real>(a[in.transpose_a ? p * in.lda + i : i * in.lda + p]);
      for (int64_t j = 0; j < in.n; ++j) sum[j] += x * columns[p * in.n + j];
    }
    d.insert(d.end(), sum.begin(), sum.end());
  }
  return d;
}

}  // namespace engine::kernels::testing::reference
