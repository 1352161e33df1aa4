// Sums over rows: the gradient of a bias.
#include "kernels/cpu/convert.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/vector_math.h"

namespace engine::kernels::cpu {
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
