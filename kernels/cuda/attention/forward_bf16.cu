#include "kernels/cuda/attention/forward.h"

namespace engine::kernels::ENGINE_GPU::attention {

void forward(const Stream& stream, const ForwardArguments<BFloat16>& arguments) {
  const Problem& problem = arguments.problem;
  const bool extras = problem.distance_bias || problem.dropout_p > 0.0f || !(problem.scale > 0.0f);
  for_padded_dim<BFloat16>(problem.head_dim, [&](auto dim) {
    constexpr int kDim = decltype(dim)::value;
    if (extras) {
      launch_forward<BFloat16, kDim, true>(stream, arguments);
    } else {
      launch_forward<BFloat16, kDim, false>(stream, arguments);
    }
  });
}

}  // namespace engine::kernels::ENGINE_GPU::attention
