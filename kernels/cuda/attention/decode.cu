#include "kernels/cuda/attention/decode.h"

namespace engine::kernels::ENGINE_GPU::attention {
namespace {

template <typename T>
void of_dim(const Stream& stream, const DecodeArguments<T>& arguments) {
  const int dim = arguments.forward.problem.head_dim;
  if (dim <= 64) {
    launch_decode<T, 64>(stream, arguments);
  } else if (dim <= 128) {
    launch_decode<T, 128>(stream, arguments);
  } else {
    launch_decode<T, 256>(stream, arguments);
  }
}

}  // namespace

void decode(const Stream& stream, const DecodeArguments<BFloat16>& arguments) {
  of_dim(stream, arguments);
}
void decode(const Stream& stream, const DecodeArguments<float>& arguments) {
  of_dim(stream, arguments);
}

}  // namespace engine::kernels::ENGINE_GPU::attention
