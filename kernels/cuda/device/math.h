// Elementary functions. Those named _approx are one instruction of the special-function unit (16
// per cycle and SM); the others are correct to a few ulp and cost tens of instructions.
#pragma once

#include <cmath>

#include "kernels/cuda/device/platform.h"

namespace engine::kernels::ENGINE_GPU {

inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;

// 2^x, relative error 2^-22; subnormal results are 0. exp2_approx(-inf) = 0.
ENGINE_DEVICE float exp2_approx(float x) {
#if ENGINE_ON_GPU
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  count_special_function();
  const float y = ::exp2f(x);
  return y < 1.17549435e-38f ? 0.0f : y;
#endif
}
ENGINE_DEVICE float exp_approx(float x) {
  return exp2_approx(x * kLog2E);
}
// 1/x, relative error 2^-23.
ENGINE_DEVICE float reciprocal_approx(float x) {
#if ENGINE_ON_GPU
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  count_special_function();
  return 1.0f / x;
#endif
}
// Relative error 2^-11: good enough for bf16 only.
ENGINE_DEVICE float tanh_approx(float x) {
#if ENGINE_ON_GPU
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  count_special_function();
  return ::tanhf(x);
#endif
}
// A product and a sum rounded by themselves: the compiler does not make one fused operation of
// them. The same bits on every device, where that is promised.
#if ENGINE_ON_GPU
ENGINE_DEVICE float rounded_product(float a, float b) {
  return __fmul_rn(a, b);
}
ENGINE_DEVICE float rounded_sum(float a, float b) {
  return __fadd_rn(a, b);
}
ENGINE_DEVICE double rounded_product(double a, double b) {
  return __dmul_rn(a, b);
}
ENGINE_DEVICE double rounded_sum(double a, double b) {
  return __dadd_rn(a, b);
}
#else
template <typename T>
__attribute__((optimize("fp-contract=off"), noinline)) inline T rounded_product(T a, T b) {
  return a * b;
}
template <typename T>
__attribute__((optimize("fp-contract=off"), noinline)) inline T rounded_sum(T a, T b) {
  return a + b;
}
#endif
// 1/sqrt(x), both steps correctly rounded.
ENGINE_DEVICE float reciprocal_sqrt(float x) {
  return 1.0f / sqrtf(x);
}

ENGINE_DEVICE float infinity() {
  return static_cast<float>(INFINITY);
}

}  // namespace engine::kernels::ENGINE_GPU
