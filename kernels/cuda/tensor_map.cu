// make_tensor_map() of a GPU: the driver encodes the map. kernels/simt/tensor_map.cpp is that of
// the software GPU.
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/tma.h"

namespace engine::kernels::cuda {

namespace {

// From the driver at run time, so that a program linked with this starts on machines without one.
decltype(&cuTensorMapEncodeTiled) encode_function() {
  static const auto function = [] {
    void* address = nullptr;
    cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &address, 12000,
                                           cudaEnableDefault, &result),
          "cuTensorMapEncodeTiled");
    if (result != cudaDriverEntryPointSuccess || !address) {
      throw GpuError("the driver is too old for Hopper: it has no cuTensorMapEncodeTiled");
    }
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(address);
  }();
  return function;
}

}  // namespace

TensorMap make_tensor_map(const TensorMapConfig& config) {
  check_tensor_map(config);
  const int rank = tensor_map_rank(config);
  const auto bytes = static_cast<cuuint64_t>(size_of(config.dtype));
  cuuint64_t size[3], stride[2];
  cuuint32_t box[3];
  const cuuint32_t step[3] = {1, 1, 1};
  for (int i = 0; i < rank; ++i) {
    size[i] = static_cast<cuuint64_t>(config.size[i]);
    box[i] = static_cast<cuuint32_t>(config.box[i]);
    if (i > 0) stride[i - 1] = static_cast<cuuint64_t>(config.stride[i - 1]) * bytes;
  }
  TensorMap map;
  const CUresult status =
      encode_function()(&map.map,
                        config.dtype == DType::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                    : CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
                        static_cast<cuuint32_t>(rank), const_cast<void*>(config.base), size, stride,
                        box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                        config.swizzle ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
                        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS) {
    throw GpuError("cuTensorMapEncodeTiled: CUresult " + std::to_string(static_cast<int>(status)));
  }
  return map;
}

}  // namespace engine::kernels::cuda
