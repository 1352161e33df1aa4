#include "kernels/cuda/attention/decode.h"

namespace engine::kernels::ENGINE_GPU::attention {
namespace {

template <typename T>
void of_dim(const Stream& stream, const DecodeArguments<T>& arguments) {
  for_padded_dim<64, 128, 256>(arguments.forward.problem.head_dim, [&](auto dim) {
    launch_decode<T, decltype(dim)::value>(stream, arguments);
  });
}

}  // namespace

void decode(const Stream& stream, const DecodeArguments<BFloat16>& arguments) {
  of_dim(stream, arguments);
}
void decode(const Stream& stream, const DecodeArguments<float>& arguments) {
  of_dim(stream, arguments);
}

}  // namespace engine::kernels::ENGINE_GPU::attention
