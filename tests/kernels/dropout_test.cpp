#include "kernels/api/dropout.h"

#include <array>
#include <cmath>

#include "tests/kernels/support.h"

namespace engine::kernels::testing {
namespace {

ENGINE_KERNEL_TEST_SUITE(DropoutTest);

// Philox4x32-10 with the whole 128-bit counter, written from the paper (Salmon et al. 2011,
// figure 4), to connect the published vectors with the 64-bit form of dropout.h.
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t left = uint64_t{counter[0]} * 0xD2511F53u;
    const uint64_t right = uint64_t{counter[2]} * 0xCD9E8D57u;
    counter = {
        static_cast<uint32_t>(right >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(right),
        static_cast<uint32_t>(left >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(left)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

TEST(Philox, KnownAnswers) {
  // kat_vectors of Random123
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(philox({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));

  const Philox4 zero = philox4x32(0, 0);
  EXPECT_EQ(zero.word[0], 0x6627e8d5u);
  EXPECT_EQ(zero.word[1], 0xe169c58du);
  EXPECT_EQ(zero.word[2], 0xbc57ac4cu);
  EXPECT_EQ(zero.word[3], 0x9b00dbd8u);
}

TEST(Philox, SixtyFourBitFormIsTheLowHalfOfTheCounter) {
  std::mt19937_64 generator(1);
  for (int i = 0; i < 1000; ++i) {
    const uint64_t seed = generator(), counter = generator() >> (i % 64);
    const Philox4 actual = philox4x32(seed, counter);
    const auto expected =
        philox({static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0},
               {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
    for (int w = 0; w < 4; ++w) ASSERT_EQ(actual.word[w], expected[w]);
  }
}

TEST_P(DropoutTest, EveryIndexFollowsTheGenerator) {
  Random random(1);
  constexpr uint64_t kOffsets[] = {0,
                                   1,
                                   2,
                                   3,
                                   61,
                                   64,
                                   4099,
                                   (uint64_t{1} << 34) - 7,
                                   (uint64_t{1} << 40) + 5};  // 2^34: the counter's high word
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (int64_t count : {0, 1, 3, 17, 63, 65, 1000, 40000}) {
      for (uint64_t offset : kOffsets) {
        for (float p : {0.0f, 0.1f, 0.75f}) {
          const uint64_t seed = 0x123456789abcdef0u + offset;
          const Values x_values = random.uniform(count, dtype, 1.0, 2.0);  // never 0
          DeviceArray x(stream(), dtype, x_values), y(stream(), dtype, count);
          ops().dropout(stream(), {.count = count,
                                   .x = x.data(),
                                   .y = y.data(),
                                   .p = p,
                                   .seed = seed,
                                   .offset = offset,
                                   .dtype = dtype});
          Values expected(x_values.size());
          for (int64_t i = 0; i < count; ++i) {
            const bool keep = philox_uniform(seed, offset + static_cast<uint64_t>(i)) >= p;
            expected[i] = keep ? x_values[i] / (1.0 - p) : 0.0;
          }
          const Values actual = y.values();
          for (int64_t i = 0; i < count; ++i) {
            ASSERT_EQ(actual[i] == 0, expected[i] == 0) << "index " << i << " of " << count;
          }
          expect_close(y, expected, "y");
          const Bytes y_bytes = y.bytes();
          ops().dropout(stream(), {.count = count,
                                   .x = x.data(),
                                   .y = x.data(),
                                   .p = p,
                                   .seed = seed,
                                   .offset = offset,
                                   .dtype = dtype});
          EXPECT_EQ(x.bytes(), y_bytes) << "y = x";
        }
      }
    }
  }
}

TEST_P(DropoutTest, DropsTheRightFractionAndHidesDroppedNan) {
  constexpr int64_t kCount = 1 << 18;
  DeviceArray x(stream(), DType::f32, Values(kCount, NAN)), y(stream(), DType::f32, kCount);
  ops().dropout(stream(), {.count = kCount, .x = x.data(), .y = y.data(), .p = 0.3f, .seed = 9});
  int64_t dropped = 0;
  for (double value : y.values()) {
    if (value == 0) {
      ++dropped;
    } else {
      ASSERT_TRUE(std::isnan(value));
    }
  }
  // five standard deviations of a binomial
  EXPECT_NEAR(dropped, 0.3 * kCount, 5 * std::sqrt(0.3 * 0.7 * kCount));
}

TEST_P(DropoutTest, SameBitsOnAnyThreadCount) {
  Random random(2);
  const Values x_values = random.normal(100003, DType::bf16);
  const auto body = [&] {
    DeviceArray x(stream(), DType::bf16, x_values);
    ops().dropout(stream(), {.count = 100003,
                             .x = x.data(),
                             .y = x.data(),
                             .p = 0.5f,
                             .seed = 3,
                             .offset = 77,
                             .dtype = DType::bf16});
    return x.bytes();
  };
  expect_same_on_any_thread_count(body);
  expect_repeatable(stream(), body);
}

TEST_P(DropoutTest, RefusesOtherProbabilities) {
  DeviceArray x(stream(), DType::f32, Values{1});
  for (float p : {-0.1f, 1.0f, NAN}) {
    EXPECT_THROW(ops().dropout(stream(), {.count = 1, .x = x.data(), .y = x.data(), .p = p}),
                 std::logic_error);
  }
}

}  // namespace
}  // namespace engine::kernels::testing
