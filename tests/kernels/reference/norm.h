#pragma once

#include <cmath>

#include "tests/kernels/reference/rounding.h"

namespace engine::kernels::testing::reference {

struct NormInputs {
  NormKind kind;
  int64_t tokens, hidden;
  double eps;
  Values weight, bias;  // bias may be empty
};

struct NormOutputs {
  Values r, y, mean, rstd;
};

template <typename Real>
Real norm_gain(const NormInputs& in, int64_t i) {
  const Real w = in.weight[i];
  return in.kind == NormKind::rms_gemma ? 1 + w : w;
}

// delta may be empty.
template <typename Real>
NormOutputs norm_forward(const NormInputs& in, const Values& x, const Values& delta,
                         Rounding compute, Rounding residual) {
  NormOutputs out{x, x, Values(in.tokens), Values(in.tokens)};
  const bool centred = in.kind == NormKind::layer_norm;
  const bool twice = in.kind == NormKind::rms_llama || in.kind == NormKind::rms_t5;
  for (int64_t t = 0; t < in.tokens; ++t) {
    Real sum = 0, squares = 0;
    for (int64_t i = 0; i < in.hidden; ++i) {
      const int64_t at = t * in.hidden + i;
      if (!delta.empty()) {
        out.r[at] = residual(static_cast<Real>(x[at]) + static_cast<Real>(delta[at]));
      }
      sum += static_cast<Real>(out.r[at]);
    }
    const Real mean = centred ? sum / in.hidden : 0;
    for (int64_t i = 0; i < in.hidden; ++i) {
      const Real d = static_cast<Real>(out.r[t * in.hidden + i]) - mean;
      squares += d * d;
    }
    const Real rstd = 1 / std::sqrt(squares / in.hidden + static_cast<Real>(in.eps));
    for (int64_t i = 0; i < in.hidden; ++i) {
      const int64_t at = t * in.hidden + i;
      Real normalised = (static_cast<Real>(out.r[at]) - mean) * rstd;
      if (twice) normalised = compute(normalised);
      Real y = norm_gain<Real>(in, i) * normalised;
      if (!in.bias.empty()) y += static_cast<Real>(in.bias[i]);
      out.y[at] = compute(y);
    }
    out.mean[t] = mean;
    out.rstd[t] = rstd;
  }
  return out;
}

struct NormGradients {
  Values dx, d_weight, d_bias;
};

// r: what the forward stored; mean and rstd as it wrote them. d_residual may be empty.
template <typename Real>
NormGradients norm_backward(const NormInputs& in, const Values& r, const Values& mean,
                            const Values& rstd, const Values& dy, const Values& d_residual,
                            Rounding residual) {
  NormGradients out{r, Values(in.hidden), Values(in.hidden)};
  const bool centred = in.kind == NormKind::layer_norm;
  std::vector<Real> d_weight(in.hidden), d_bias(in.hidden);
  for (int64_t t = 0; t < in.tokens; ++t) {
    const Real mu = centred ? mean[t] : 0, scale = rstd[t];
    Real sum_g = 0, sum_gx = 0;
    for (int64_t i = 0; i < in.hidden; ++i) {
      const int64_t at = t * in.hidden + i;
      const Real normalised = (static_cast<Real>(r[at]) - mu) * scale;
      const Real g = static_cast<Real>(dy[at]) * norm_gain<Real>(in, i);
      sum_g += g;
      sum_gx += g * normalised;
      d_weight[i] += static_cast<Real>(dy[at]) * normalised;
      d_bias[i] += static_cast<Real>(dy[at]);
    }
    const Real mean_g = centred ? sum_g / in.hidden : 0, mean_gx = sum_gx / in.hidden;
    for (int64_t i = 0; i < in.hidden; ++i) {
      const int64_t at = t * in.hidden + i;
      const Real normalised = (static_cast<Real>(r[at]) - mu) * scale;
      const Real g = static_cast<Real>(dy[at]) * norm_gain<Real>(in, i);
      Real d = scale * (g - mean_g - normalised * mean_gx);
      if (!d_residual.empty()) d += static_cast<Real>(d_residual[at]);
      out.dx[at] = residual(d);
    }
  }
  for (int64_t i = 0; i < in.hidden; ++i) {
    out.d_weight[i] = d_weight[i];
    out.d_bias[i] = d_bias[i];
  }
  return out;
}

}  // namespace engine::kernels::testing::reference
