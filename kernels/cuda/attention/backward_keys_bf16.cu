#include "kernels/cuda/attention/backward_keys.h"

namespace engine::kernels::ENGINE_GPU::attention {

void backward_keys(const Stream& stream, const BackwardArguments<BFloat16>& arguments) {
  const Problem& problem = arguments.problem;
  const bool extras = problem.distance_bias || problem.dropout_p > 0.0f;
  for_padded_dim<BFloat16>(problem.head_dim, [&](auto dim) {
    constexpr int kDim = decltype(dim)::value;
    if (extras) {
      launch_backward_keys<BFloat16, kDim, true>(stream, arguments);
    } else {
      launch_backward_keys<BFloat16, kDim, false>(stream, arguments);
    }
  });
}

}  // namespace engine::kernels::ENGINE_GPU::attention
