#include "kernels/cuda/attention/backward.h"

namespace engine::kernels::ENGINE_GPU::attention {

void backward_keys(const Stream& stream, const BackwardArguments<float>& arguments) {
  const int dim = arguments.problem.head_dim;
  if (dim <= 32) {
    launch_backward_keys<float, 32, true>(stream, arguments);
  } else if (dim <= 64) {
    launch_backward_keys<float, 64, true>(stream, arguments);
  } else if (dim <= 128) {
    launch_backward_keys<float, 128, true>(stream, arguments);
  } else {
    launch_backward_keys<float, 256, true>(stream, arguments);
  }
}

void backward_queries(const Stream& stream, const BackwardArguments<float>& arguments) {
  const int dim = arguments.problem.head_dim;
  if (dim <= 32) {
    launch_backward_queries<float, 32, true>(stream, arguments);
  } else if (dim <= 64) {
    launch_backward_queries<float, 64, true>(stream, arguments);
  } else if (dim <= 128) {
    launch_backward_queries<float, 128, true>(stream, arguments);
  } else {
    launch_backward_queries<float, 256, true>(stream, arguments);
  }
}

}  // namespace engine::kernels::ENGINE_GPU::attention
