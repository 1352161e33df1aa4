#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/simt/counters.h"
#include "tests/kernels/matmul_cases.h"
#include "tests/kernels/matmul_variants.h"

namespace engine::kernels::testing {
namespace {

ENGINE_MATMUL_TEST_SUITE(MatmulTest);

constexpr DType kFloats[] = {DType::f32, DType::bf16};

// Sums of small integers are exact in fp32, so a single misplaced element shows.
TEST_P(MatmulTest, IntegersAreExact) {
  constexpr int64_t kSizes[] = {1, 3, 17, 33, 65};
  Random random(1);
  int number = 0;
  for (int64_t m : kSizes) {
    for (int64_t n : kSizes) {
      for (int64_t k : {1, 2, 31, 65}) {
        for (int transposes = 0; transposes < 4; ++transposes) {
          // dtypes, bias, accumulation and gaps take turns, so that all pairs occur
          const int turn = number++ % 31;
          run_case(stream(),
                   {.m = m,
                    .n = n,
                    .k = k,
                    .transpose_a = (transposes & 1) != 0,
                    .transpose_b = (transposes & 2) != 0,
                    .accumulate = (turn & 1) != 0,
                    .bias = (turn & 2) != 0,
                    .input = kFloats[(turn >> 2) & 1],
                    .output = kFloats[(turn >> 3) & 1],
                    .extra = (turn & 16) ? 5 : 0},
                   Data::integers, random);
        }
      }
    }
  }
}

TEST_P(MatmulTest, EveryCombination) {
  Random random(2);
  for (int bits = 0; bits < 128; ++bits) {
    const Case c{.m = 70,
                 .n = 37,
                 .k = 45,
                 .transpose_a = (bits & 1) != 0,
                 .transpose_b = (bits & 2) != 0,
                 .accumulate = (bits & 4) != 0,
                 .bias = (bits & 8) != 0,
                 .input = kFloats[(bits >> 4) & 1],
                 .output = kFloats[(bits >> 5) & 1],
                 .extra = (bits & 64) ? 3 : 0};
    run_case(stream(), c, Data::integers, random);
    run_case(stream(), c, Data::normal, random);
  }
}

// More than one block of k, several pieces, and (4200) several passes over k.
TEST_P(MatmulTest, LargeSizes) {
  Random random(3);
  for (DType input : kFloats) {
    for (DType output : kFloats) {
      for (bool accumulate : {false, true}) {
        run_case(stream(),
                 {.m = 129,
                  .n = 130,
                  .k = 700,
                  .transpose_b = true,
                  .accumulate = accumulate,
                  .bias = true,
                  .input = input,
                  .output = output},
                 Data::integers, random);
        run_case(stream(),
                 {.m = 33,
                  .n = 63,
                  .k = 4200,
                  .transpose_a = true,
                  .accumulate = accumulate,
                  .bias = true,
                  .input = input,
                  .output = output},
                 Data::integers, random);
        run_case(stream(),
                 {.m = 63,
                  .n = 130,
                  .k = 1100,
                  .accumulate = accumulate,
                  .input = input,
                  .output = output},
                 Data::normal, random);
      }
    }
  }
}

// Packed operands are cut into chunks of columns or rows when they are large.
TEST_P(MatmulTest, OperandsLargerThanTheScratch) {
  Random random(4);
  run_case(stream(), {.m = 5, .n = 12000, .k = 600, .transpose_b = true, .input = DType::bf16},
           Data::integers, random);
  run_case(stream(), {.m = 12000, .n = 1, .k = 600, .transpose_a = true, .output = DType::bf16},
           Data::integers, random);
}

// Rows of A that are whole cache lines are read where they lie: last rows that need padding, blocks
// of k that do not divide it, several passes over k.
TEST_P(MatmulTest, RowsOfWholeCacheLines) {
  Random random(9);
  for (DType output : kFloats) {
    for (auto [m, n, k] :
         {std::array<int64_t, 3>{70, 100, 800}, {32, 33, 32}, {33, 1030, 544}, {65, 40, 4384}}) {
      for (bool transpose_b : {false, true}) {
        run_case(stream(),
                 {.m = m,
                  .n = n,
                  .k = k,
                  .transpose_b = transpose_b,
                  .accumulate = transpose_b,
                  .bias = true,
                  .input = DType::bf16,
                  .output = output},
                 Data::integers, random);
      }
    }
  }
}

TEST_P(MatmulTest, SameBitsWhereverAStartsInACacheLine) {
  Random random(10);
  constexpr int64_t m = 75, n = 140, k = 640;
  for (DType input : kFloats) {
    const Values a_values = random.normal(m * k, input);
    DeviceArray b(stream(), input, random.normal(n * k, input));
    std::vector<std::byte> first;
    for (int64_t shift : {0, 1}) {
      Values shifted(static_cast<size_t>(shift), 0.0);
      shifted.insert(shifted.end(), a_values.begin(), a_values.end());
      DeviceArray a(stream(), input, shifted), d(stream(), DType::f32, m * n);
      ops().matmul(stream(), {.a = a.as<char>() + shift * static_cast<int64_t>(size_of(input)),
                              .b = b.data(),
                              .d = d.data(),
                              .m = m,
                              .n = n,
                              .k = k,
                              .transpose_b = true,
                              .input_dtype = input,
                              .output_dtype = DType::f32});
      if (shift == 0) {
        first = d.bytes();
      } else {
        EXPECT_EQ(first, d.bytes());
      }
    }
  }
}

// Sizes around the tiles of the GPU kernels, whose rows start on 16-byte boundaries or just do not;
// depths that end within a tile, within 16 bytes, and before the ring of stages is full.
TEST_P(MatmulTest, EdgesOfTiles) {
  Random random(11);
  const auto run_all = [&](int64_t m, int64_t n, int64_t k, int64_t extra) {
    for (DType input : kFloats) {
      for (int transposes = 0; transposes < 3; ++transposes) {
        run_case(stream(),
                 {.m = m,
                  .n = n,
                  .k = k,
                  .transpose_a = transposes == 1,
                  .transpose_b = transposes == 2,
                  .accumulate = transposes == 1,
                  .bias = transposes == 2,
                  .input = input,
                  .output = kFloats[(m + n + k) / 8 % 2],
                  .extra = extra},
                 Data::integers, random);
      }
    }
  };
  simt::start_counting();
  for (int64_t extra : {0, 8}) {
    for (int64_t k : {8, 32, 40, 136}) run_all(64, 72, k, extra);
    run_all(128, 136, 104, extra);
  }
  run_all(256, 1024, 40, 0);
  run_all(256, 1024, 72, 0);
  run_all(128, 512, 72, 0);
  run_all(264, 520, 40, 8);
  // rows on 16-byte boundaries that end within 16 bytes, before NaN
  for (int64_t k : {5, 29, 45}) run_all(69, 37, k, 3);
  run_all(133, 517, 29, 3);
  run_all(65, 66, 67, 1);
  const auto kernels = simt::stop_counting();
  if (GetParam().capability == 90) {
    for (const char* kernel : {"matmul_wgmma_128x128_pairs", "matmul_wgmma_128x128",
                               "matmul_mma_64x64", "matmul_mma_unaligned"}) {
      EXPECT_TRUE(kernels.contains(kernel)) << kernel << " was not chosen";
    }
  } else if (simulated()) {
    for (const char* kernel : {"matmul_mma_128x256", "matmul_mma_128x128", "matmul_mma_64x64",
                               "matmul_mma_unaligned", "matmul_fma_128x128", "matmul_fma_64x64"}) {
      EXPECT_TRUE(kernels.contains(kernel)) << kernel << " was not chosen";
    }
  }
}

// Few elements and a long k: what a GPU cuts along k when it is given room.
TEST_P(MatmulTest, LongSumsInParts) {
  Random random(12);
  simt::start_counting();
  int number = 0;
  for (auto [m, n, k] :
       {std::array<int64_t, 3>{72, 136, 1100}, {64, 64, 2100}, {133, 70, 1030}, {1, 5, 1500}}) {
    for (DType input : kFloats) {
      for (int transposes = 0; transposes < 4; ++transposes) {
        const int turn = number++ % 7;
        run_case(stream(),
                 {.m = m,
                  .n = n,
                  .k = k,
                  .transpose_a = (transposes & 1) != 0,
                  .transpose_b = (transposes & 2) != 0,
                  .accumulate = (turn & 1) != 0,
                  .bias = (turn & 2) != 0,
                  .input = input,
                  .output = kFloats[turn / 4],
                  .extra = turn == 6 ? 3 : 0,
                  .workspace = true},
                 Data::integers, random);
      }
      run_case(stream(),
               {.m = m, .n = n, .k = k, .transpose_a = true, .input = input, .workspace = true},
               Data::normal, random);
    }
  }
  const auto kernels = simt::stop_counting();
  if (simulated()) {
    EXPECT_TRUE(kernels.contains("matmul_sum_parts"));
  }
}

TEST_P(MatmulTest, EmptySizes) {
  Random random(5);
  for (DType output : kFloats) {
    for (bool bias : {false, true}) {
      for (bool accumulate : {false, true}) {
        for (auto [m, n, k] : {std::array<int64_t, 3>{0, 5, 7}, {5, 0, 7}, {33, 300, 0}}) {
          run_case(stream(),
                   {.m = m,
                    .n = n,
                    .k = k,
                    .accumulate = accumulate,
                    .bias = bias,
                    .output = output,
                    .extra = 2},
                   Data::integers, random);
        }
      }
    }
  }
}

TEST_P(MatmulTest, SameBitsOnAnyThreadCount) {
  struct Shape {
    int64_t m, n, k;
    bool transpose_a, transpose_b;
  };
  std::vector<Shape> shapes = {{131, 205, 1000, false, true}, {136, 264, 520, true, false}};
  if (stream().device == DeviceType::cuda) {
    for (const bool transpose_a : {false, true}) {
      for (const bool transpose_b : {false, true}) {
        shapes.push_back({1032, 1544, 1032, transpose_a, transpose_b});
      }
    }
  }
  Random random(6);
  for (DType input : kFloats) {
    for (DType output : kFloats) {
      for (const auto& [m, n, k, transpose_a, transpose_b] : shapes) {
        if (m > 1000 && input == DType::f32) continue;
        DeviceArray a(stream(), input, random.normal(m * k, input));
        DeviceArray b(stream(), input, random.normal(n * k, input));
        const Values before = random.normal(m * n, output);
        const auto body = [&, m = m, n = n, k = k, ta = transpose_a, tb = transpose_b] {
          DeviceArray d(stream(), output, before);
          ops().matmul(stream(), {.a = a.data(),
                                  .b = b.data(),
                                  .d = d.data(),
                                  .m = m,
                                  .n = n,
                                  .k = k,
                                  .transpose_a = ta,
                                  .transpose_b = tb,
                                  .accumulate = true,
                                  .input_dtype = input,
                                  .output_dtype = output});
          return d.bytes();
        };
        expect_same_on_any_thread_count(body);
        expect_repeatable(stream(), body);
      }
    }
  }
}

TEST_P(MatmulTest, NaNAndInfinityReachTheirRowOnly) {
  for (DType dtype : kFloats) {
    Values a_values(40 * 50, 1.0), b_values(50 * 20, 1.0);
    a_values[7 * 50 + 3] = NAN;
    a_values[9 * 50 + 4] = INFINITY;
    DeviceArray a(stream(), dtype, a_values), b(stream(), dtype, b_values);
    DeviceArray d(stream(), dtype, int64_t{40 * 20});
    ops().matmul(stream(), {.a = a.data(),
                            .b = b.data(),
                            .d = d.data(),
                            .m = 40,
                            .n = 20,
                            .k = 50,
                            .input_dtype = dtype,
                            .output_dtype = dtype});
    const Values values = d.values();
    for (int64_t i = 0; i < 40 * 20; ++i) {
      if (i / 20 == 7) {
        EXPECT_TRUE(std::isnan(values[i]));
      } else {
        EXPECT_EQ(values[i], i / 20 == 9 ? INFINITY : 50.0);
      }
    }
  }
}

TEST_P(MatmulTest, RefusesLeadingDimensionsThatOverlap) {
  float x[4] = {};
  EXPECT_THROW(ops().matmul(stream(), {.a = x, .b = x, .d = x, .m = 2, .n = 2, .k = 2, .lda = 1}),
               std::logic_error);
}

}  // namespace
}  // namespace engine::kernels::testing
