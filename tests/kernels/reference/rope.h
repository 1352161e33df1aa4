#pragma once

#include "tests/kernels/reference/rounding.h"

namespace engine::kernels::testing::reference {

struct RopeInputs {
  int64_t tokens, stride, num_heads, head_dim;
  Values positions, cos, sin;
  bool inverse;
};

// x as the operation leaves it; elements between heads and stride keep their value.
template <typename Real>
Values rope(const RopeInputs& in, const Values& x, Rounding round) {
  Values y = x;
  const int64_t half = in.head_dim / 2;
  for (int64_t t = 0; t < in.tokens; ++t) {
    for (int64_t h = 0; h < in.num_heads; ++h) {
      for (int64_t i = 0; i < half; ++i) {
        const int64_t first = t * in.stride + h * in.head_dim + i, second = first + half;
        const int64_t angle = static_cast<int64_t>(in.positions[t]) * half + i;
        const Real c = in.cos[angle], s = in.inverse ? -in.sin[angle] : in.sin[angle];
        const Real a = x[first], b = x[second];
        y[first] = round(a * c - b * s);
        y[second] = round(b * c + a * s);
      }
    }
  }
  return y;
}

}  // namespace engine::kernels::testing::reference
