// Roundings of conversions, errors of approximate instructions.
#include "kernels/cuda/device/math.h"

#include <bit>
#include <limits>

#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/mma.h"
#include "tests/kernels/hardware/arrays.h"
#include "tests/kernels/hardware/assumption.h"

namespace engine::kernels::ENGINE_GPU::hardware {
namespace {

using namespace testing;

// One thread per value.
template <typename Function, typename T>
__global__ void map_kernel(const float* x, T* out, int count, Function function) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) store(out + i, function(load(x + i)));
}
template <typename T, typename Function>
std::vector<T> mapped(const std::vector<float>& x, Function function) {
  const OnDevice<float> device(x);
  const OnDevice<T> out(x.size());
  const auto count = static_cast<int>(x.size());
  launch({}, "map", map_kernel<Function, T>,
         {.grid = {static_cast<unsigned>(ceil_div(count, 128))}, .block = {128}},
         static_cast<const float*>(device.data()), out.data(), count, function);
  return out.values();
}

// Ties of both parities, carries into the exponent, limits, subnormals, and what lies around them.
std::vector<float> hard_to_round() {
  std::vector<float> values;
  for (const uint32_t base :
       {0x3f800000u, 0x3f810000u, 0x3fff0000u, 0x7f7f0000u, 0x00010000u, 0x00000000u, 0x007f0000u,
        0x3f800000u + 0x2000u, 0x3f800000u + 0x4000u, 0x42fe0000u}) {
    for (const uint32_t low : {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0x1fffu, 0x7fffu, 0x8000u, 0x8001u,
                               0xefffu, 0xf000u, 0xffffu}) {
      values.push_back(std::bit_cast<float>(base + low));
      values.push_back(-std::bit_cast<float>(base + low));
    }
  }
  values.push_back(std::numeric_limits<float>::infinity());
  values.push_back(-std::numeric_limits<float>::infinity());
  values.push_back(std::numeric_limits<float>::quiet_NaN());
  return values;
}

struct PackLow {
  ENGINE_DEVICE uint32_t operator()(float x) const { return pack_bf16(x, 1.0f); }
};
struct PackHigh {
  ENGINE_DEVICE uint32_t operator()(float x) const { return pack_bf16(1.0f, x); }
};
struct Unpack {
  ENGINE_DEVICE float operator()(float x) const {
    const uint32_t packed = pack_bf16(x, -x);
    return low_bf16(packed) == -high_bf16(packed) ? low_bf16(packed) : infinity();
  }
};

void bf16_rounding(Report& report) {
  auto x = hard_to_round();
  x.pop_back();  // which NaN is not defined
  const auto rounded = [&](size_t i) { return static_cast<uint32_t>(BFloat16(x[i]).bits); };
  const uint32_t one = BFloat16(1.0f).bits;
  report.compare("low", mapped<uint32_t>(x, PackLow{}),
                 [&](size_t i) { return one << 16 | rounded(i); });
  report.compare("high", mapped<uint32_t>(x, PackHigh{}),
                 [&](size_t i) { return rounded(i) << 16 | one; });
  const auto all = hard_to_round();
  report.require(std::isnan(mapped<float>(all, Unpack{}).back()) ||
                     std::isinf(mapped<float>(all, Unpack{}).back()),
                 "NaN did not stay one");
}

struct ToTf32 {
  ENGINE_DEVICE uint32_t operator()(float x) const { return to_tf32(x) & 0xffffe000u; }
};

void tf32_rounding(Report& report) {
  auto x = hard_to_round();
  x.pop_back();
  report.compare("tf32", mapped<uint32_t>(x, ToTf32{}), [&](size_t i) {
    const uint32_t bits = std::bit_cast<uint32_t>(x[i]);
    if ((bits & 0x7f800000u) == 0x7f800000u) return bits;
    return (bits + 0x1000u) & 0xffffe000u;
  });
}

std::vector<float> spread(float from, float to, int count) {
  std::vector<float> values;
  for (int i = 0; i < count; ++i) {
    values.push_back(from + (to - from) * static_cast<float>(i) / static_cast<float>(count - 1));
  }
  return values;
}

struct Exp2 {
  ENGINE_DEVICE float operator()(float x) const { return exp2_approx(x); }
};
struct Reciprocal {
  ENGINE_DEVICE float operator()(float x) const { return reciprocal_approx(x); }
};
struct Tanh {
  ENGINE_DEVICE float operator()(float x) const { return tanh_approx(x); }
};
struct ReciprocalSqrt {
  ENGINE_DEVICE float operator()(float x) const { return reciprocal_sqrt(x); }
};

void approximations(Report& report) {
  const auto exponents = spread(-125.0f, 127.0f, 4001);
  report.compare_near(
      "exp2_approx", mapped<float>(exponents, Exp2{}),
      [&](size_t i) { return std::exp2(static_cast<double>(exponents[i])); },
      [&](size_t i) { return std::ldexp(std::exp2(static_cast<double>(exponents[i])), -22); });
  const float infinite = std::numeric_limits<float>::infinity();
  const auto limits = mapped<float>({-infinite, -140.0f, 0.0f, 200.0f}, Exp2{});
  report.compare("exp2_approx of -inf, -140, 0, 200", limits, [&](size_t i) {
    const float expected[] = {0.0f, 0.0f, 1.0f, infinite};
    return expected[i];
  });
  const auto x = spread(0.01f, 700.0f, 4001);
  report.compare_near(
      "reciprocal_approx", mapped<float>(x, Reciprocal{}), [&](size_t i) { return 1.0 / x[i]; },
      [&](size_t i) { return std::ldexp(1.0 / x[i], -23); });
  const auto angles = spread(-9.0f, 9.0f, 4001);
  report.compare_near(
      "tanh_approx", mapped<float>(angles, Tanh{}),
      [&](size_t i) { return std::tanh(static_cast<double>(angles[i])); },
      // relative 2^-10.987 says the ISA; below 1 in size
      [&](size_t i) {
        return std::ldexp(std::abs(std::tanh(static_cast<double>(angles[i]))), -10);
      });
  report.compare("reciprocal_sqrt", mapped<float>(x, ReciprocalSqrt{}),
                 [&](size_t i) { return 1.0f / std::sqrt(x[i]); });
}

}  // namespace

Assumptions math_assumptions() {
  static const Assumption all[] = {
      {"bf16_rounding", "cvt.rn.bf16x2: to nearest even, low and high half", 80, bf16_rounding},
      {"tf32_rounding", "cvt.rna.tf32: to nearest, ties away from zero", 80, tf32_rounding},
      {"approximations", "errors of ex2, rcp, tanh; 1/sqrt to the last bit", 80, approximations},
  };
  return all;
}

}  // namespace engine::kernels::ENGINE_GPU::hardware
