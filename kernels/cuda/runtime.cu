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
  copy_to_host_async(stream, to, from, bytes);
  synchronize(stream);
}

void copy_to_host_async(Stream stream, void* to, const void* from, size_t bytes) {
  if (!bytes) return;
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, native(stream)),
        "cudaMemcpyAsync, device to host");
}

void synchronize(Stream stream) {
  check(cudaStreamSynchronize(native(stream)), "cudaStreamSynchronize");
}

void* allocate_pinned(Stream stream, size_t bytes) {
  check(cudaSetDevice(stream.device_index), "cudaSetDevice");
  void* data = nullptr;
  const cudaError_t status = cudaMallocHost(&data, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  check(status, "cudaMallocHost");
  return data;
}

void release_pinned(Stream, void* data) {
  cudaFreeHost(data);
}

void* create_stream(Stream stream) {
  // The current device is a property of the thread: kernels are launched where the stream was made.
  check(cudaSetDevice(stream.device_index), "cudaSetDevice");
  cudaStream_t made = nullptr;
  check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  return made;
}

void destroy_stream(Stream stream) {
  if (stream.handle) cudaStreamDestroy(native(stream));
}

DeviceCount count_devices() {
  DeviceCount result;
  const cudaError_t status = cudaGetDeviceCount(&result.count);
  if (status == cudaSuccess && result.count > 0) return result;
  result.count = 0;
  result.message = cudaGetErrorString(status);
  switch (status) {
    case cudaErrorInsufficientDriver:  // also when there is none
    case cudaErrorStubLibrary:
    case cudaErrorSystemDriverMismatch:
      result.problem = DeviceCount::Problem::no_driver;
      break;
    case cudaSuccess:
    case cudaErrorNoDevice:
      result.problem = DeviceCount::Problem::no_device;
      break;
    default:
      result.problem = DeviceCount::Problem::other;
      break;
  }
  cudaGetLastError();
  return result;
}

DeviceInfo device_info(Stream stream) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, stream.device_index), "cudaGetDeviceProperties");
  DeviceInfo info{.name = properties.name,
                  .total_memory = properties.totalGlobalMem,
                  .multiprocessors = properties.multiProcessorCount,
                  .compute_capability = 10 * properties.major + properties.minor};
  if (stream.handle) {
    check(cudaSetDevice(stream.device_index), "cudaSetDevice");
    check(cudaMemGetInfo(&info.free_memory, &info.total_memory), "cudaMemGetInfo");
  }
  return info;
}

int multiprocessors(Stream stream) {
  return attribute(stream, cudaDevAttrMultiProcessorCount);
}

int compute_capability(Stream stream) {
  return 10 * attribute(stream, cudaDevAttrComputeCapabilityMajor) +
         attribute(stream, cudaDevAttrComputeCapabilityMinor);
}

}  // namespace engine::kernels::cuda
