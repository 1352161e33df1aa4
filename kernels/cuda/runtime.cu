// Memory, copies and properties of a CUDA device.
#include <nvtx3/nvToolsExt.h>

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

// A graph would repeat the copy with whatever the host's memory holds then, and a wait fails.
void require_not_recording(const Stream& stream, const char* what) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(native(stream), &status), "cudaStreamIsCapturing");
  if (status != cudaStreamCaptureStatusNone) {
    throw std::logic_error(std::string(what) + ": not while the stream records");
  }
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
  require_not_recording(stream, "copy_to_device");
  if (!bytes) return;
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, native(stream)),
        "cudaMemcpyAsync, host to device");
}

void copy_to_host(Stream stream, void* to, const void* from, size_t bytes) {
  copy_to_host_async(stream, to, from, bytes);
  synchronize(stream);
}

void copy_to_host_async(Stream stream, void* to, const void* from, size_t bytes) {
  require_not_recording(stream, "a copy to the host");
  if (!bytes) return;
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, native(stream)),
        "cudaMemcpyAsync, device to host");
}

void synchronize(Stream stream) {
  require_not_recording(stream, "waiting for the device");
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

void* create_event(Stream stream) {
  check(cudaSetDevice(stream.device_index), "cudaSetDevice");
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  return event;
}

void record_event(Stream stream, void* event) {
  check(cudaEventRecord(static_cast<cudaEvent_t>(event), native(stream)), "cudaEventRecord");
}

void wait_event(Stream, void* event) {
  check(cudaEventSynchronize(static_cast<cudaEvent_t>(event)), "cudaEventSynchronize");
}

void destroy_event(Stream, void* event) {
  if (event) cudaEventDestroy(static_cast<cudaEvent_t>(event));
}

// Only this thread's calls are watched for what a capture forbids: others may go on.
void begin_recording(Stream stream) {
  require_not_recording(stream, "begin_recording");
  check(cudaStreamBeginCapture(native(stream), cudaStreamCaptureModeThreadLocal),
        "cudaStreamBeginCapture");
}

void* end_recording(Stream stream) {
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(native(stream), &graph), "cudaStreamEndCapture");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "cudaGraphInstantiate");
  return executable;
}

void cancel_recording(Stream stream) {
  cudaGraph_t graph = nullptr;
  cudaStreamEndCapture(native(stream), &graph);
  if (graph) cudaGraphDestroy(graph);
  cudaGetLastError();  // reported where it happened
}

void replay(Stream stream, void* recording) {
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(recording), native(stream)),
        "cudaGraphLaunch");
}

void release_recording(Stream, void* recording) {
  if (recording) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(recording));
}

void begin_range(const char* name) {
  nvtxRangePushA(name);
}

void end_range() {
  nvtxRangePop();
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
