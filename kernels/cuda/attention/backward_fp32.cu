#include "kernels/cuda/attention/backward.h"

namespace engine::kernels::ENGINE_GPU::attention {

void backward(const Stream& stream, const BackwardArguments<float>& arguments) {
  const int dim = arguments.problem.head_dim;
  launch_row_sums(stream, arguments);
  if (dim <= 32) {
    launch_backward<float, 32, true>(stream, arguments);
  } else if (dim <= 64) {
    launch_backward<float, 64, true>(stream, arguments);
  } else if (dim <= 128) {
    launch_backward<float, 128, true>(stream, arguments);
  } else {
    launch_backward<float, 256, true>(stream, arguments);
  }
}

}  // namespace engine::kernels::ENGINE_GPU::attention
