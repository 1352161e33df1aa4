#include "kernels/cuda/attention/backward.h"

namespace engine::kernels::ENGINE_GPU::attention {
namespace {

template <int kDim>
void of_dim(const Stream& stream, const BackwardArguments<BFloat16>& arguments) {
  if (arguments.problem.distance_bias || arguments.problem.dropout_p > 0.0f) {
    launch_backward_keys<BFloat16, kDim, true>(stream, arguments);
  } else {
    launch_backward_keys<BFloat16, kDim, false>(stream, arguments);
  }
}

}  // namespace

void backward_keys(const Stream& stream, const BackwardArguments<BFloat16>& arguments) {
  const int dim = arguments.problem.head_dim;
  if (dim <= 32) {
    of_dim<32>(stream, arguments);
  } else if (dim <= 64) {
    of_dim<64>(stream, arguments);
  } else if (dim <= 96) {
    of_dim<96>(stream, arguments);
  } else if (dim <= 128) {
    of_dim<128>(stream, arguments);
  } else {
    of_dim<256>(stream, arguments);
  }
}

}  // namespace engine::kernels::ENGINE_GPU::attention
