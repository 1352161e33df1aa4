// The Hopper matrix product: every layout, output, tile and cluster, edges, extents that only the
// device knows. Whole numbers, so every sum is exact, under every schedule.
#include <array>
#include <cmath>

#include "kernels/cuda/matmul/problem.h"
#include "kernels/simt/counters.h"
#include "tests/kernels/simt/support.h"

namespace engine::kernels::simt::testing {
namespace {

struct Case {
  int m, n, k;
  bool transpose_a = false, transpose_b = false, accumulate = false, bias = false, bf16 = false;
  int gap = 0;  // elements between rows that are not part of the matrix
  DeviceExtent::Of of = DeviceExtent::Of::none;
  int first = 0, count = 0;  // of the extent
};

// x [rows][columns] with NaN between rows.
std::vector<float> with_gaps(const std::vector<float>& x, int rows, int columns, int ld) {
  std::vector<float> wide(static_cast<size_t>(rows) * ld, NAN);
  for (int i = 0; i < rows; ++i) {
    std::copy_n(x.begin() + static_cast<ptrdiff_t>(i) * columns, columns,
                wide.begin() + static_cast<ptrdiff_t>(i) * ld);
  }
  return wide;
}

template <typename T>
std::vector<float> run(MatmulProblem problem, const std::vector<float>& before) {
  std::vector<T> start;
  for (float value : before) start.push_back(T(value));
  OnDevice<T> d(start);
  problem.d = d.data();
  EXPECT_TRUE(matmul_wgmma({}, problem));
  std::vector<float> result;
  for (T value : d.values()) result.push_back(static_cast<float>(value));
  return result;
}

void check(const Case& c) {
  SCOPED_TRACE(std::to_string(c.m) + "x" + std::to_string(c.n) + "x" + std::to_string(c.k) +
               (c.transpose_a ? " TA" : "") + (c.transpose_b ? " TB" : "") +
               (c.accumulate ? " +=" : "") + (c.bias ? " bias" : "") + (c.bf16 ? " bf16" : "") +
               " extent " + std::to_string(static_cast<int>(c.of)) + " " + std::to_string(c.count));
  const int a_rows = c.transpose_a ? c.k : c.m, a_columns = c.transpose_a ? c.m : c.k;
  const int b_rows = c.transpose_b ? c.n : c.k, b_columns = c.transpose_b ? c.k : c.n;
  const int lda = (a_columns + 7) / 8 * 8 + c.gap, ldb = (b_columns + 7) / 8 * 8 + c.gap,
            ldd = (c.n + 7) / 8 * 8 + c.gap;
  auto a = small_integers(static_cast<size_t>(a_rows) * a_columns, 1);
  auto b = small_integers(static_cast<size_t>(b_rows) * b_columns, 2);
  const auto bias = small_integers(c.n, 3);
  const auto before = small_integers(static_cast<size_t>(c.m) * c.n, 4);
  int m = c.m, k = c.k;
  const int extent = std::max(0, c.count - c.first);
  if (c.of == DeviceExtent::Of::m) m = std::min(m, extent);
  if (c.of == DeviceExtent::Of::k) k = std::min(k, extent);
  // Beyond the extent of k nothing may be read into a sum.
  for (int i = 0; i < a_rows; ++i) {
    for (int j = 0; j < a_columns; ++j) {
      if ((c.transpose_a ? i : j) >= k) a[i * a_columns + j] = NAN;
    }
  }
  for (int i = 0; i < b_rows; ++i) {
    for (int j = 0; j < b_columns; ++j) {
      if ((c.transpose_b ? j : i) >= k) b[i * b_columns + j] = NAN;
    }
  }
  const OnDevice<BFloat16> device_a(to_bf16(with_gaps(a, a_rows, a_columns, lda)));
  const OnDevice<BFloat16> device_b(to_bf16(with_gaps(b, b_rows, b_columns, ldb)));
  const OnDevice<BFloat16> device_bias(to_bf16(bias));
  const OnDevice<int32_t> device_count(std::vector<int32_t>{c.count});
  const MatmulProblem problem{.a = device_a.data(),
                              .b = device_b.data(),
                              .bias = c.bias ? device_bias.data() : nullptr,
                              .m = c.m,
                              .n = c.n,
                              .k = c.k,
                              .lda = lda,
                              .ldb = ldb,
                              .ldd = ldd,
                              .transpose_a = c.transpose_a,
                              .transpose_b = c.transpose_b,
                              .accumulate = c.accumulate,
                              .output_bf16 = c.bf16,
                              .vectors_a = true,
                              .vectors_b = true,
                              .vectors_d = true,
                              .extent = {c.of, c.first, device_count.data()}};
  const auto start = with_gaps(before, c.m, c.n, ldd);
  const auto d = c.bf16 ? run<BFloat16>(problem, start) : run<float>(problem, start);
  for (int i = 0; i < c.m; ++i) {
    for (int j = 0; j < ldd; ++j) {
      const float actual = d[static_cast<size_t>(i) * ldd + j];
      if (j >= c.n) {
        ASSERT_TRUE(std::isnan(actual)) << "wrote between rows, at row " << i;
        continue;
      }
      float expected = before[static_cast<size_t>(i) * c.n + j];
      if (i < m) {
        if (!c.accumulate) expected = 0;
        if (c.bias) expected += bias[j];
        for (int x = 0; x < k; ++x) {
          expected += a[c.transpose_a ? x * a_columns + i : i * a_columns + x] *
                      b[c.transpose_b ? j * b_columns + x : x * b_columns + j];
        }
        if (c.bf16) expected = static_cast<float>(BFloat16(expected));
      }
      ASSERT_EQ(actual, expected) << "row " << i << " column " << j;
    }
  }
}

TEST(MatmulWgmma, EveryLayoutOutputAndTile) {
  start_counting();
  for (const auto& [m, n] : std::vector<std::pair<int, int>>{
           {512, 512}, {256, 256}, {128, 1024}, {128, 512}, {640, 128}, {1024, 64}}) {
    for (int transposes = 0; transposes < 3; ++transposes) {
      for (const bool bf16 : {false, true}) {
        check({.m = m,
               .n = n,
               .k = 192,
               .transpose_a = transposes == 1,
               .transpose_b = transposes == 2,
               .accumulate = !bf16 && transposes == 1,
               .bias = transposes == 2,
               .bf16 = bf16});
      }
    }
  }
  const auto kernels = stop_counting();
  for (const char* name : {"matmul_wgmma_128x256_pairs", "matmul_wgmma_128x256",
                           "matmul_wgmma_128x128_pairs", "matmul_wgmma_128x128"}) {
    EXPECT_TRUE(kernels.contains(name)) << name;
  }
}

// Sizes that end within a tile, within 64 of k, within 16 rows or bytes; NaN between rows.
TEST(MatmulWgmma, EdgesUnderEverySchedule) {
  under_all_schedules([] {
    for (int transposes = 0; transposes < 3; ++transposes) {
      for (const bool bf16 : {false, true}) {
        for (const auto& [m, n, k] : std::vector<std::array<int, 3>>{
                 {64, 64, 64}, {129, 257, 72}, {200, 328, 65}, {255, 129, 200}, {770, 64, 264}}) {
          check({.m = m,
                 .n = n,
                 .k = k,
                 .transpose_a = transposes == 1,
                 .transpose_b = transposes == 2,
                 .accumulate = !bf16 && (m & 1) != 0,
                 .bias = transposes != 1,
                 .bf16 = bf16,
                 .gap = m == 200 ? 8 : 0});
        }
      }
    }
  });
}

// Rows beyond an extent of m stay as they are; beyond an extent of k there is NaN, which must not
// be read into a sum.
TEST(MatmulWgmma, ExtentsThatOnlyTheDeviceKnows) {
  using Of = DeviceExtent::Of;
  under_all_schedules([] {
    for (const bool bf16 : {false, true}) {
      for (const int count : {0, 1, 111, 128, 133, 300, 1000}) {
        for (const bool transpose_b : {false, true}) {
          check({.m = 300,
                 .n = 136,
                 .k = 72,
                 .transpose_b = transpose_b,
                 .accumulate = !bf16 && transpose_b,
                 .bias = true,
                 .bf16 = bf16,
                 .of = Of::m,
                 .first = count == 133 ? 60 : 0,
                 .count = count});
        }
      }
      for (const int count : {0, 1, 64, 70, 127, 200, 500}) {
        for (int transposes = 0; transposes < 3; ++transposes) {
          check({.m = 140,
                 .n = 72,
                 .k = 200,
                 .transpose_a = transposes == 1,
                 .transpose_b = transposes == 2,
                 .accumulate = !bf16,
                 .bf16 = bf16,
                 .of = Of::k,
                 .first = count == 70 ? 3 : 0,
                 .count = count});
        }
      }
    }
  });
}

// What it leaves to others: nothing is written then.
TEST(MatmulWgmma, RefusesWhatItCannotDo) {
  OnDevice<BFloat16> x(64 * 80);
  OnDevice<float> d(64 * 80);
  const MatmulProblem good{.a = x.data(),
                           .b = x.data(),
                           .d = d.data(),
                           .m = 64,
                           .n = 64,
                           .k = 64,
                           .lda = 64,
                           .ldb = 64,
                           .ldd = 64};
  EXPECT_TRUE(matmul_wgmma({}, good));
  for (const auto& spoil : std::vector<std::function<void(MatmulProblem&)>>{
           [](MatmulProblem& p) { p.transpose_a = p.transpose_b = true; },
           [](MatmulProblem& p) { p.lda = 65; }, [](MatmulProblem& p) { p.ldb = 68; },
           [](MatmulProblem& p) { p.ldd = 66; }, [](MatmulProblem& p) { p.k = 63; },
           [&](MatmulProblem& p) { p.a = x.data() + 1; },
           [](MatmulProblem& p) { p.output_bf16 = p.accumulate = true; }}) {
    MatmulProblem bad = good;
    spoil(bad);
    EXPECT_FALSE(matmul_wgmma({}, bad));
  }
}

}  // namespace
}  // namespace engine::kernels::simt::testing
