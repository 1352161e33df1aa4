#include "kernels/cuda/attention/backward_keys.h"
#include "kernels/cuda/attention/backward_queries.h"

namespace engine::kernels::ENGINE_GPU::attention {

void backward_keys(const Stream& stream, const BackwardArguments<float>& arguments) {
  for_padded_dim<float>(arguments.problem.head_dim, [&](auto dim) {
    launch_backward_keys<float, decltype(dim)::value, true>(stream, arguments);
  });
}

void backward_queries(const Stream& stream, const BackwardArguments<float>& arguments) {
  for_padded_dim<float>(arguments.problem.head_dim, [&](auto dim) {
    launch_backward_queries<float, decltype(dim)::value, true>(stream, arguments);
  });
}

}  // namespace engine::kernels::ENGINE_GPU::attention
