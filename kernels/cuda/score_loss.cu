// Losses of real-valued scores (kernels/api/score_loss.h): one warp per row.
//
// Rows are the sequences of a micro-batch and scores a handful, so this is a launch and a few
// microseconds whatever it does; it is written for the case of many labels all the same: lanes read
// neighbouring scores.
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/math.h"
#include "kernels/cuda/device/warp.h"

namespace engine::kernels::ENGINE_GPU {
namespace {

constexpr int kWarps = 4;  // rows of a block

template <ScoreLossKind kind>
ENGINE_DEVICE float term(float score, float target, float& slope) {
  if constexpr (kind == ScoreLossKind::squared_error) {
    const float difference = score - target;
    slope = 2.0f * difference;
    return difference * difference;
  } else {
    const float e = expf(-fabsf(score));
    slope = (score >= 0.0f ? 1.0f : e) / (1.0f + e) - target;
    return fmaxf(score, 0.0f) - score * target + log1pf(e);
  }
}

template <ScoreLossKind kind>
__global__ void __launch_bounds__(kWarps* kWarp) score_loss_kernel(const ScoreLoss p) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + warp_index();
  if (row >= p.rows) return;
  float* const scores = p.scores + row * p.outputs;
  const float* const targets = p.targets + row * p.outputs;
  const float first = load(targets);
  const bool has_target = first == first;  // not NaN
  const float grad_scale = p.d_scores ? read(p.grad_scale) : 0.0f;
  const float share = 1.0f / static_cast<float>(p.outputs);
  float sum = 0.0f;
  for (int64_t i = lane_index(); i < p.outputs; i += kWarp) {
    float loss = 0.0f, slope = 0.0f;
    if (has_target) loss = term<kind>(load(scores + i), load(targets + i), slope);
    sum += loss;
    if (p.d_scores) store(scores + i, slope * share * grad_scale);
  }
  sum = warp_sum(sum);
  if (lane_index() == 0) store(p.losses + row, sum * share);
}

}  // namespace

void score_loss(Stream stream, const ScoreLoss& p) {
  require(p.rows >= 0 && p.outputs > 0, "score_loss: bad shape");
  if (p.rows == 0) return;
  launch(stream, "score_loss",
         p.kind == ScoreLossKind::squared_error
             ? score_loss_kernel<ScoreLossKind::squared_error>
             : score_loss_kernel<ScoreLossKind::binary_cross_entropy>,
         {.grid = {static_cast<unsigned>(ceil_div<int64_t>(p.rows, kWarps))},
          .block = {kWarps * kWarp}},
         p);
}

}  // namespace engine::kernels::ENGINE_GPU
