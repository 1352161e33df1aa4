// The functions of kernels/cpu/vector_math.h against libm's fp64, in units in the last place.
#include "kernels/cpu/vector_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

namespace engine::kernels::cpu {
namespace {

double error_in_ulps(double exact, float actual) {
  if (std::isinf(static_cast<float>(exact))) {
    return actual == static_cast<float>(exact) ? 0.0 : INFINITY;
  }
  int exponent;
  std::frexp(exact, &exponent);
  return std::abs(exact - static_cast<double>(actual)) /
         std::ldexp(1.0, std::max(exponent - 24, -149));
}

// Largest error over floats of all signs and exponents, and densely in [-12, 12].
template <typename Function>
double worst_error(const Function& function, const std::function<double(double)>& exact) {
  double worst = 0;
  const auto check = [&](const float(&x)[kLanes]) {
    float y[kLanes];
    store(y, function(load(x)));
    for (int i = 0; i < kLanes; ++i) {
      if (std::isnan(x[i])) {
        EXPECT_TRUE(std::isnan(y[i])) << "NaN was lost";
        continue;
      }
      const double error = error_in_ulps(exact(x[i]), y[i]);
      worst = error <= worst ? worst : error;  // a NaN result is the worst
    }
  };
  float x[kLanes];
  constexpr uint64_t kStep = 8191 * kLanes;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32) - kStep; bits += kStep) {
    for (int i = 0; i < kLanes; ++i) {
      x[i] = std::bit_cast<float>(static_cast<uint32_t>(bits + 8191 * i));
    }
    check(x);
  }
  constexpr int kDense = 1 << 16;
  for (int k = 0; k < kDense; ++k) {
    for (int i = 0; i < kLanes; ++i) {
      x[i] = -12.0f + 24.0f * static_cast<float>(k * kLanes + i) / (kDense * kLanes);
    }
    check(x);
  }
  const float special[kLanes] = {INFINITY,   -INFINITY, 0.0f,     -0.0f,   88.72284f, 88.72283f,
                                 -103.9721f, -103.97f,  -87.337f, -87.33f, 1e-45f,    -1e-45f,
                                 NAN,        -NAN,      127.0f,   -150.0f};
  check(special);
  return worst;
}

TEST(VectorMath, Exp) {
  EXPECT_LE(worst_error([](F32x16 x) { return exp(x); }, [](double x) { return std::exp(x); }),
            1.1);
}
TEST(VectorMath, Sigmoid) {
  EXPECT_LE(worst_error([](F32x16 x) { return sigmoid(x); },
                        [](double x) { return 1 / (1 + std::exp(-x)); }),
            2.5);
}
TEST(VectorMath, Tanh) {
  EXPECT_LE(worst_error([](F32x16 x) { return tanh(x); }, [](double x) { return std::tanh(x); }),
            2.5);
}
TEST(VectorMath, Erf) {
  EXPECT_LE(worst_error([](F32x16 x) { return erf(x); }, [](double x) { return std::erf(x); }),
            2.5);
}
TEST(VectorMath, SquareRootIsRounded) {
  EXPECT_LE(worst_error([](F32x16 x) { return square_root(absolute(x)); },
                        [](double x) { return std::sqrt(std::abs(x)); }),
            0.5);
}

TEST(VectorMath, Bf16RoundsAsTheScalarType) {
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += 997 * kLanes) {
    float x[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      x[i] = std::bit_cast<float>(static_cast<uint32_t>(bits + 997 * i));
    }
    BFloat16 y[kLanes];
    store(y, load(x));
    for (int i = 0; i < kLanes; ++i) ASSERT_EQ(y[i].bits, BFloat16(x[i]).bits) << x[i];
    float back[kLanes];
    store(back, load(y));
    for (int i = 0; i < kLanes; ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(back[i]), uint32_t{y[i].bits} << 16);
    }
  }
}

TEST(VectorMath, PartialLoadsAndStoresStayInside) {
  float x[kLanes];
  BFloat16 h[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    x[i] = static_cast<float>(i + 1);
    h[i] = BFloat16(x[i]);
  }
  for (int64_t count = 1; count < kLanes; ++count) {
    const FirstLanes lanes{count};
    float y[kLanes];
    BFloat16 g[kLanes];
    std::fill_n(y, kLanes, -1.0f);
    std::fill_n(g, kLanes, BFloat16(-1.0f));
    store(y, load(h, lanes) + 0.5f, lanes);
    store(g, load(x, lanes), lanes);
    for (int i = 0; i < kLanes; ++i) {
      EXPECT_EQ(y[i], i < count ? x[i] + 0.5f : -1.0f);
      EXPECT_EQ(static_cast<float>(g[i]), i < count ? x[i] : -1.0f);
    }
    EXPECT_EQ(sum_of_lanes(load(x, lanes)), static_cast<float>(count * (count + 1) / 2));
    EXPECT_EQ(maximum_of_lanes(fill_rest(load(x, lanes) - 100.0f, -INFINITY, lanes)),
              static_cast<float>(count) - 100.0f);
  }
}

}  // namespace
}  // namespace engine::kernels::cpu
