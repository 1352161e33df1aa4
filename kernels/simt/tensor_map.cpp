// make_tensor_map() of the software GPU: the numbers as they are.
#include "kernels/cuda/device/tma.h"

namespace engine::kernels::simt {

TensorMap make_tensor_map(const TensorMapConfig& config) {
  check_tensor_map(config);
  const auto bytes = static_cast<int64_t>(size_of(config.dtype));
  TensorMap map;
  TensorBox& box = map.map;
  box.base = static_cast<std::byte*>(const_cast<void*>(config.base));
  box.rank = tensor_map_rank(config);
  box.element_bytes = static_cast<uint32_t>(bytes);
  box.is_float = config.dtype == DType::f32;
  box.swizzle = config.swizzle;
  box.stride[0] = bytes;
  for (int i = 0; i < box.rank; ++i) {
    box.size[i] = config.size[i];
    box.box[i] = config.box[i];
    if (i > 0) box.stride[i] = config.stride[i - 1] * bytes;
  }
  return map;
}

}  // namespace engine::kernels::simt
