#pragma once

#include <cmath>

#include "tests/kernels/reference/rounding.h"

namespace engine::kernels::testing::reference {

struct AdamWState {
  Values p, m, v;
};

// One step t of torch.optim.AdamW on one tensor.
template <typename Real>
void adamw(AdamWState& state, const Values& grad, const AdamW& config, double weight_decay,
           double grad_scale) {
  const Real beta1 = config.beta1, beta2 = config.beta2, eps = config.eps;
  const Real correction1 = 1 - std::pow(config.beta1, config.step);
  const Real correction2 = 1 - std::pow(config.beta2, config.step);
  for (size_t i = 0; i < grad.size(); ++i) {
    const Real g = static_cast<Real>(grad[i]) * static_cast<Real>(grad_scale);
    const Real decayed =
        static_cast<Real>(state.p[i]) * static_cast<Real>(1 - config.lr * weight_decay);
    const Real m = beta1 * static_cast<Real>(state.m[i]) + static_cast<Real>(1 - config.beta1) * g;
    const Real v =
        beta2 * static_cast<Real>(state.v[i]) + static_cast<Real>(1 - config.beta2) * g * g;
    const Real step_size = static_cast<Real>(config.lr) / correction1;
    state.p[i] = decayed - step_size * m / (std::sqrt(v) / std::sqrt(correction2) + eps);
    state.m[i] = m;
    state.v[i] = v;
  }
}

}  // namespace engine::kernels::testing::reference
