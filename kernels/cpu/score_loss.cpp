#include <algorithm>
#include <cmath>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/parallel.h"

namespace engine::kernels::cpu {
namespace {

struct Term {
  float loss, slope;
};

Term squared_error(float score, float target) {
  const float difference = score - target;
  return {difference * difference, 2.0f * difference};
}

Term binary_cross_entropy(float score, float target) {
  const float e = std::exp(-std::abs(score));
  const float sigmoid = score >= 0.0f ? 1.0f / (1.0f + e) : e / (1.0f + e);
  return {std::max(score, 0.0f) - score * target + std::log1p(e), sigmoid - target};
}

}  // namespace

void score_loss(Stream, const ScoreLoss& p) {
  require(p.rows >= 0 && p.outputs > 0, "score_loss: bad shape");
  const auto term = p.kind == ScoreLossKind::squared_error ? squared_error : binary_cross_entropy;
  const float grad_scale = p.grad_scale.get(), share = 1.0f / static_cast<float>(p.outputs);
  parallel_for(p.rows, [&](int64_t row) {
    float* const scores = p.scores + row * p.outputs;
    const float* const targets = p.targets + row * p.outputs;
    const bool has_target = !std::isnan(targets[0]);
    double sum = 0;
    for (int64_t i = 0; i < p.outputs; ++i) {
      const Term one = has_target ? term(scores[i], targets[i]) : Term{0.0f, 0.0f};
      sum += one.loss;
      if (p.d_scores) scores[i] = one.slope * share * grad_scale;
    }
    p.losses[row] = static_cast<float>(sum) * share;
  });
}

}  // namespace engine::kernels::cpu
