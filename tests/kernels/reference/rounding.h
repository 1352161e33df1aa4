// References are templates on their arithmetic: with double and no rounding they are the truth,
// with float and rounding where the contract rounds they are the low-precision twin.
#pragma once

#include "tests/kernels/support.h"

namespace engine::kernels::testing {

struct Rounding {
  bool on = false;
  DType dtype = DType::f32;
  template <typename Real>
  Real operator()(Real value) const {
    return on ? static_cast<Real>(rounded(dtype, value)) : value;
  }
};

inline Rounding no_rounding() {
  return {};
}
inline Rounding rounding_to(DType dtype) {
  return {.on = true, .dtype = dtype};
}

}  // namespace engine::kernels::testing
