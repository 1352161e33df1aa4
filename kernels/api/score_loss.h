// Losses of real-valued scores: regression, and labels of which several may hold at once.
//
// For a row of n scores s and targets t:   loss = 1/n Σ_i l(s[i], t[i])
//   squared_error          l = (s - t)²                                   dl/ds = 2 (s - t)
//   binary_cross_entropy   l = -t log σ(s) - (1 - t) log(1 - σ(s))        dl/ds = σ(s) - t
//                            = max(s, 0) - s t + log(1 + exp(-|s|))       0 <= t <= 1
//   d_scores[i] = grad_scale / n · dl/ds
// A row whose first target is NaN has none: loss 0, gradient 0. The sums of a row do not depend on
// the thread count.
#pragma once

#include "kernels/api/types.h"

namespace engine::kernels {

enum class ScoreLossKind : uint8_t { squared_error, binary_cross_entropy };

struct ScoreLoss {
  ScoreLossKind kind = ScoreLossKind::squared_error;
  int64_t rows = 0, outputs = 0;
  float* scores = nullptr;         // [rows, outputs]; becomes d_scores when asked for
  const float* targets = nullptr;  // [rows, outputs]
  Scalar<float> grad_scale = 1.0f;
  float* losses = nullptr;  // [rows]
  bool d_scores = false;    // overwrite scores by their gradient
};

}  // namespace engine::kernels
