// Memory, copies and properties of a CUDA device.
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device/launch.h"

namespace engine::kernels::cuda {
namespace {

cudaStream_t native(const Stream& stream) {
  return static_cast<cudaStream_t>(stream.handle);
}

int attribute(const Stream& stream, cudaDeviceAttr which) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, stream.device_index), "cudaDeviceGetAttribute");
  return value;
}

}  // namespace

void* allocate(Stream stream, size_t bytes) {
  check(cudaSetDevice(stream.device_index), "cudaSetDevice");
  void* data = nullptr;
  const cudaError_t status = cudaMalloc(&data, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // reported by the caller; the next call starts clean
    return nullptr;
  }
  check(status, "cudaMalloc");
  return data;
}

void release(Stream, void* data) {
  cudaFree(data);  // in destructors: nothing sensible can be done about an error
}

void set_zero(Stream stream, void* data, size_t bytes) {
  if (bytes) check(cudaMemsetAsync(data, 0, bytes, native(stream)), "cudaMemsetAsync");
}

void copy(Stream stream, void* to, const void* from, size_t bytes) {
  if (!bytes) return;
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, native(stream)),
        "cudaMemcpyAsync, within the device");
}

void copy_to_device(Stream stream, void* to, const void* from, size_t bytes) {
  if (!bytes) return;
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, native(stream)),
        "cudaMemcpyAsync, host to device");
}

void copy_to_host(Stream stream, void* to, const void* from, size_t bytes) {
  if (!bytes) return;
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, native(stream)),
        "cudaMemcpyAsync, device to host");
  synchronize(stream);
}

void synchronize(Stream stream) {
  check(cudaStreamSynchronize(native(stream)), "cudaStreamSynchronize");
}

int multiprocessors(Stream stream) {
  return attribute(stream, cudaDevAttrMultiProcessorCount);
}

int compute_capability(Stream stream) {
  return 10 * attribute(stream, cudaDevAttrComputeCapabilityMajor) +
         attribute(stream, cudaDevAttrComputeCapabilityMinor);
}

}  // namespace engine::kernels::cuda
