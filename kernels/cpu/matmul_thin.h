// Products with few rows, as in decoding: every weight is used a few times only, so it is read
// where it lies instead of being packed. Sums are fp32.
#pragma once

#include <algorithm>

#include "kernels/cpu/vector_math.h"

namespace engine::kernels::cpu {

inline constexpr int64_t kThinRows = 4;      // rows of A at most
inline constexpr int64_t kThinColumns = 64;  // columns of D in a piece

// sums[i][j] = Σ_p x[i, p] · b[p, begin + j] for j < count <= kThinColumns; x is [kRows, k] fp32.
// k_contiguous: b is stored [n, k] with row stride `stride`, else [k, n].
template <int kRows, typename T>
void multiply_thin(const float* x, int64_t k, const T* b, int64_t stride, bool k_contiguous,
                   int64_t begin, int64_t count, float (*sums)[kThinColumns]) {
  if (k_contiguous) {
    constexpr int kTogether = 4;  // columns at a time: enough independent sums to fill the units
    for (int64_t j = 0; j < count; j += kTogether) {
      const int64_t columns = std::min<int64_t>(kTogether, count - j);
      const T* w[kTogether];
      // past the last column the last is computed again
      for (int64_t c = 0; c < kTogether; ++c) {
        w[c] = b + (begin + j + std::min(c, columns - 1)) * stride;
      }
      F32x16 sum[kRows][kTogether] = {};
      for_vectors(k, [&](int64_t p, auto lanes) {
#pragma GCC unroll 4
        for (int c = 0; c < kTogether; ++c) {
          const F32x16 y = load(w[c] + p, lanes);
#pragma GCC unroll 4
          for (int i = 0; i < kRows; ++i) sum[i][c] += load(x + i * k + p, lanes) * y;
        }
      });
      for (int64_t c = 0; c < columns; ++c) {
        for (int i = 0; i < kRows; ++i) sums[i][j + c] = sum_of_lanes(sum[i][c]);
      }
    }
    return;
  }
  for_vectors(count, [&](int64_t j, auto lanes) {
    constexpr int kApart = 4;  // values of k that are summed apart, for the same reason
    F32x16 sum[kRows][kApart] = {};
    const T* column = b + begin + j;
    int64_t p = 0;
    for (; p + kApart <= k; p += kApart) {
#pragma GCC unroll 4
      for (int c = 0; c < kApart; ++c) {
        const F32x16 y = load(column + (p + c) * stride, lanes);
#pragma GCC unroll 4
        for (int i = 0; i < kRows; ++i) sum[i][c] += y * x[i * k + p + c];
      }
    }
    for (; p < k; ++p) {
      const F32x16 y = load(column + p * stride, lanes);
      for (int i = 0; i < kRows; ++i) sum[i][0] += y * x[i * k + p];
    }
    for (int i = 0; i < kRows; ++i) {
      store(sums[i] + j, (sum[i][0] + sum[i][1]) + (sum[i][2] + sum[i][3]), lanes);
    }
  });
}

}  // namespace engine::kernels::cpu
