#include "kernels/cuda/attention/forward.h"

namespace engine::kernels::ENGINE_GPU::attention {

void forward(const Stream& stream, const ForwardArguments<float>& arguments) {
  const int dim = arguments.problem.head_dim;
  if (dim <= 32) {
    launch_forward<float, 32, true>(stream, arguments);
  } else if (dim <= 64) {
    launch_forward<float, 64, true>(stream, arguments);
  } else if (dim <= 128) {
    launch_forward<float, 128, true>(stream, arguments);
  } else {
    launch_forward<float, 256, true>(stream, arguments);
  }
}

}  // namespace engine::kernels::ENGINE_GPU::attention
