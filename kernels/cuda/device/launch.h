// Starting kernels: the only way, on both devices.
//
//   launch(stream, "rms_norm_forward", rms_norm_forward_kernel<float>,
//          {.grid = {rows}, .block = {128}, .shared_bytes = 64}, arguments);
//
// A grid of no blocks starts nothing. Errors of the start (too much shared memory, no kernel for
// this GPU) throw GpuError at once; errors of the kernel appear at the next synchronisation. The
// name must live as long as the stream: a literal.
#pragma once

#include <string>
#include <type_traits>

#include "kernels/api/device.h"
#include "kernels/cuda/device/platform.h"

namespace engine::kernels::ENGINE_GPU {

struct Extent {
  unsigned x = 1, y = 1, z = 1;
};

struct LaunchConfig {
  Extent grid;
  Extent block;
  unsigned cluster = 1;     // blocks per cluster along x
  size_t shared_bytes = 0;  // dynamic
};

#if ENGINE_ON_GPU
inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw GpuError(std::string(what) + ": " + cudaGetErrorName(status) + ", " +
                 cudaGetErrorString(status));
}
#endif

template <typename... Parameters>
void launch(const Stream& stream, const char* name, void (*kernel)(Parameters...),
            const LaunchConfig& config, const std::type_identity_t<Parameters>&... arguments) {
  if (config.grid.x == 0 || config.grid.y == 0 || config.grid.z == 0) return;
#if ENGINE_ON_GPU
  if (config.shared_bytes > 48 * 1024) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(config.shared_bytes)),
          name);
  }
  cudaLaunchConfig_t cuda_config = {};
  cuda_config.gridDim = dim3(config.grid.x, config.grid.y, config.grid.z);
  cuda_config.blockDim = dim3(config.block.x, config.block.y, config.block.z);
  cuda_config.dynamicSmemBytes = config.shared_bytes;
  cuda_config.stream = static_cast<cudaStream_t>(stream.handle);
  cudaLaunchAttribute attribute;
  if (config.cluster > 1) {
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = config.cluster;
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
    cuda_config.attrs = &attribute;
    cuda_config.numAttrs = 1;
  }
  check(cudaLaunchKernelEx(&cuda_config, kernel, arguments...), name);
#else
  const LaunchShape shape{{config.grid.x, config.grid.y, config.grid.z},
                          {config.block.x, config.block.y, config.block.z},
                          config.cluster,
                          config.shared_bytes};
  // Every thread gets a copy of the arguments, as on a GPU.
  submit(stream, [name, shape, kernel, ... copies = Parameters(arguments)] {
    launch(name, shape, [&] { kernel(Parameters(copies)...); });
  });
#endif
}

}  // namespace engine::kernels::ENGINE_GPU
