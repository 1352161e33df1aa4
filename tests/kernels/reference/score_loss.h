#pragma once

#include <algorithm>
#include <cmath>

#include "tests/kernels/reference/rounding.h"

namespace engine::kernels::testing::reference {

struct ScoreLossResult {
  Values losses, d_scores;
};

template <typename Real>
ScoreLossResult score_loss(ScoreLossKind kind, const Values& scores, const Values& targets,
                           int64_t outputs, Real grad_scale, Rounding round) {
  const auto rows = static_cast<int64_t>(scores.size()) / outputs;
  ScoreLossResult result{Values(static_cast<size_t>(rows)), Values(scores.size())};
  for (int64_t row = 0; row < rows; ++row) {
    if (std::isnan(targets[row * outputs])) continue;
    Real sum = 0;
    for (int64_t i = row * outputs; i < (row + 1) * outputs; ++i) {
      const Real s = scores[i], t = targets[i];
      Real slope;
      if (kind == ScoreLossKind::squared_error) {
        sum += (s - t) * (s - t);
        slope = 2 * (s - t);
      } else {
        sum += std::max<Real>(s, 0) - s * t + std::log1p(std::exp(-std::abs(s)));
        slope = 1 / (1 + std::exp(-s)) - t;
      }
      result.d_scores[i] = round(grad_scale * slope / static_cast<Real>(outputs));
    }
    result.losses[row] = round(sum / static_cast<Real>(outputs));
  }
  return result;
}

}  // namespace engine::kernels::testing::reference
