#pragma once

#include <cmath>
#include <numbers>

#include "tests/kernels/reference/rounding.h"

namespace engine::kernels::testing::reference {

template <typename Real>
Real activation(Activation kind, Real x) {
  switch (kind) {
    case Activation::gelu_erf:
      return Real(0.5) * x * (1 + std::erf(x / std::numbers::sqrt2_v<Real>));
    case Activation::gelu_tanh:
      return Real(0.5) * x *
             (1 + std::tanh(std::sqrt(2 / std::numbers::pi_v<Real>) *
                            (x + Real(0.044715) * x * x * x)));
    case Activation::silu:
      return x / (1 + std::exp(-x));
    case Activation::relu:
      return x > 0 ? x : 0;
    case Activation::tanh:
      return std::tanh(x);
  }
  return 0;
}

template <typename Real>
Real activation_slope(Activation kind, Real x) {
  constexpr Real kPi = std::numbers::pi_v<Real>;
  switch (kind) {
    case Activation::gelu_erf:
      return Real(0.5) * (1 + std::erf(x / std::numbers::sqrt2_v<Real>)) +
             x * std::exp(-x * x / 2) / std::sqrt(2 * kPi);
    case Activation::gelu_tanh: {
      const Real scale = std::sqrt(2 / kPi), cubic = Real(0.044715);
      const Real t = std::tanh(scale * (x + cubic * x * x * x));
      return Real(0.5) * (1 + t) + Real(0.5) * x * (1 - t * t) * scale * (1 + 3 * cubic * x * x);
    }
    case Activation::silu: {
      const Real s = 1 / (1 + std::exp(-x));
      return s * (1 + x * (1 - s));
    }
    case Activation::relu:
      return x > 0 ? 1 : 0;
    case Activation::tanh:
      return 1 - std::tanh(x) * std::tanh(x);
  }
  return 0;
}

struct ActivationInputs {
  Activation kind;
  bool gated;
  int64_t tokens, width;
};

template <typename Real>
Values activation_forward(const ActivationInputs& in, const Values& x, Rounding round) {
  Values y(in.tokens * in.width);
  const int64_t row = in.gated ? 2 * in.width : in.width;
  for (int64_t t = 0; t < in.tokens; ++t) {
    for (int64_t i = 0; i < in.width; ++i) {
      Real value = activation<Real>(in.kind, x[t * row + i]);
      if (in.gated) value *= static_cast<Real>(x[t * row + in.width + i]);
      y[t * in.width + i] = round(value);
    }
  }
  return y;
}

template <typename Real>
Values activation_backward(const ActivationInputs& in, const Values& x, const Values& dy,
                           Rounding round) {
  Values dx(x.size());
  const int64_t row = in.gated ? 2 * in.width : in.width;
  for (int64_t t = 0; t < in.tokens; ++t) {
    for (int64_t i = 0; i < in.width; ++i) {
      const Real gate = x[t * row + i], d = dy[t * in.width + i];
      const Real slope = activation_slope<Real>(in.kind, gate);
      if (!in.gated) {
        dx[t * row + i] = round(d * slope);
        continue;
      }
      const Real up = x[t * row + in.width + i];
      dx[t * row + i] = round(d * up * slope);
      dx[t * row + in.width + i] = round(d * activation<Real>(in.kind, gate));
    }
  }
  return dx;
}

}  // namespace engine::kernels::testing::reference
