// The activations of kernels/api/activation.h for one value, and their derivatives: in the kernels
// of activation.cu and in the epilogues of products, which must give the same bits.
//
// silu and gelu_tanh are one exponential and one reciprocal: ½(1 + tanh u) is sigmoid(2u). In bf16
// both are the approximate instructions (errors of 2^-22, far below bf16's 2^-9); in fp32 they are
// the exact functions. Multiplications and additions that may become one rounding or two are
// written as one (fmaf): a compiler that chose would choose differently in different kernels.
#pragma once

#include "kernels/api/activation.h"
#include "kernels/cuda/device/math.h"

namespace engine::kernels::ENGINE_GPU {

// sigmoid(x), and 1 - sigmoid(x) without cancellation.
template <typename T>
ENGINE_DEVICE float sigmoid(float x, float& complement) {
  float e, s;
  if constexpr (sizeof(T) == 2) {
    e = exp_approx(-x);
    s = reciprocal_approx(1.0f + e);
  } else {
    e = expf(-x);
    s = 1.0f / (1.0f + e);
  }
  complement = fminf(e * s, 1.0f);  // e may be infinite and s 0: fminf takes the number
  return s;
}

// The value at x; and, for the backward, the derivative too.
template <Activation kind, typename T>
ENGINE_DEVICE float activate(float x, float& derivative) {
  if constexpr (kind == Activation::gelu_erf) {
    const float cdf = 0.5f * (1.0f + erff(x * 0.70710678118654752f));
    derivative = fmaf(x, 0.39894228040143268f * expf(x * x * -0.5f), cdf);
    return x * cdf;
  } else if constexpr (kind == Activation::gelu_tanh) {
    constexpr float kScale = 1.5957691216057308f;  // 2 √(2/π)
    constexpr float kCubic = 0.044715f;
    const float square =
        fminf(x * x, 1e6f);  // beyond, s · complement is 0, and must not meet infinity
    float complement;
    const float s = sigmoid<T>(kScale * x * fmaf(kCubic, square, 1.0f), complement);
    derivative = fmaf(x * (s * complement), kScale * fmaf(3.0f * kCubic, square, 1.0f), s);
    return x * s;
  } else if constexpr (kind == Activation::silu) {
    float complement;
    const float s = sigmoid<T>(x, complement);
    derivative = s * fmaf(x, complement, 1.0f);
    return x * s;
  } else if constexpr (kind == Activation::tanh) {
    const float t = tanhf(x);
    derivative = fmaf(-t, t, 1.0f);
    return t;
  } else {
    derivative = x > 0.0f ? 1.0f : 0.0f;
    return x <= 0.0f ? 0.0f : x;  // NaN passes
  }
}

}  // namespace engine::kernels::ENGINE_GPU
