#include "kernels/cuda/attention/forward.h"

namespace engine::kernels::ENGINE_GPU::attention {

void forward(const Stream& stream, const ForwardArguments<float>& arguments) {
  for_padded_dim<float>(arguments.problem.head_dim, [&](auto dim) {
    launch_forward<float, decltype(dim)::value, true>(stream, arguments);
  });
}

}  // namespace engine::kernels::ENGINE_GPU::attention
