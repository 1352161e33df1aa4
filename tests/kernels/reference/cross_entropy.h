#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/api/cross_entropy.h"
#include "tests/kernels/reference/matmul.h"

namespace engine::kernels::testing::reference {

struct CrossEntropyResult {
  Values losses, argmax, d_logits;  // of the given logits
};

// Of logits as stored; rounds the gradient only.
template <typename Real>
CrossEntropyResult cross_entropy(const Values& logits, const Values& targets, int64_t classes,
                                 Real grad_scale, Rounding round) {
  CrossEntropyResult r;
  r.d_logits.resize(logits.size());
  for (size_t row = 0; row < targets.size(); ++row) {
    const double* z = logits.data() + row * classes;
    if (targets[row] == kIgnoreIndex) {
      r.losses.push_back(0);
      r.argmax.push_back(-1);
      continue;
    }
    const int64_t target = static_cast<int64_t>(targets[row]);
    const int64_t best = std::max_element(z, z + classes) - z;
    const Real most = static_cast<Real>(z[best]);
    Real sum = 0;
    for (int64_t v = 0; v < classes; ++v) sum += std::exp(static_cast<Real>(z[v]) - most);
    r.losses.push_back(std::log(sum) + (most - static_cast<Real>(z[target])));
    r.argmax.push_back(static_cast<double>(best));
    for (int64_t v = 0; v < classes; ++v) {
      const Real p = std::exp(static_cast<Real>(z[v]) - most) / sum;
      r.d_logits[row * classes + v] = round(grad_scale * (p - Real(v == target)));
    }
  }
  return r;
}

struct LinearCrossEntropyInputs {
  int64_t tokens, hidden_size, vocab_size;
  double logit_scale, grad_scale;
};

struct LinearCrossEntropyResult {
  Values losses, argmax, d_hidden, d_weight;
};

// round: the rounding of dz, and of d_hidden, to the compute dtype.
template <typename Real>
LinearCrossEntropyResult linear_cross_entropy(const LinearCrossEntropyInputs& in,
                                              const Values& hidden, const Values& weight,
                                              const Values& targets, Rounding round) {
  const int64_t t = in.tokens, h = in.hidden_size, v = in.vocab_size;
  Values logits = matmul<Real>({t, v, h, h, h, false, true}, hidden, weight);
  for (double& z : logits) z = static_cast<Real>(z * in.logit_scale);
  const CrossEntropyResult loss =
      cross_entropy<Real>(logits, targets, v, static_cast<Real>(in.grad_scale), round);
  LinearCrossEntropyResult r;
  r.losses = loss.losses;
  r.argmax = loss.argmax;
  r.d_hidden = matmul<Real>({t, h, v, v, h, false, false}, loss.d_logits, weight);
  r.d_weight = matmul<Real>({v, h, t, v, h, true, false}, loss.d_logits, hidden);
  for (double& g : r.d_hidden) g = round(static_cast<Real>(g * in.logit_scale));
  for (double& g : r.d_weight) g = static_cast<Real>(g * in.logit_scale);
  return r;
}

}  // namespace engine::kernels::testing::reference
