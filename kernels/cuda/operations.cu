// The table of a GPU device.
#include "kernels/cuda/cuda.h"

namespace engine::kernels::ENGINE_GPU {

const Operations& table() {
  static constexpr Operations operations = {
      .name = kDeviceName,
      .add = add,
      .cast = cast,
      .find_nonfinite = find_nonfinite,
      .set_zero = set_zero,
      .copy = copy,
      .copy_to_device = copy_to_device,
      .copy_to_host = copy_to_host,
      .synchronize = synchronize,
      .allocate = allocate,
      .release = release,
  };
  return operations;
}

}  // namespace engine::kernels::ENGINE_GPU
