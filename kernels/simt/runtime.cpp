// Memory, copies and properties of the software GPU. Operations run at once: a stream has no queue.
#include <cstdlib>
#include <cstring>

#include "kernels/cuda/cuda.h"
#include "kernels/simt/device_memory.h"
#include "kernels/simt/launch.h"

namespace engine::kernels::simt {

void* allocate(Stream, size_t bytes) {
  return allocate_device_memory(bytes);
}

void release(Stream, void* data) {
  free_device_memory(data);
}

void set_zero(Stream, void* data, size_t bytes) {
  const DeviceAccess access;
  if (bytes) std::memset(data, 0, bytes);
}

void copy(Stream, void* to, const void* from, size_t bytes) {
  const DeviceAccess access;
  if (bytes) std::memmove(to, from, bytes);
}

void copy_to_device(Stream stream, void* to, const void* from, size_t bytes) {
  copy(stream, to, from, bytes);
}

void copy_to_host(Stream stream, void* to, const void* from, size_t bytes) {
  copy(stream, to, from, bytes);
}

void copy_to_host_async(Stream stream, void* to, const void* from, size_t bytes) {
  copy(stream, to, from, bytes);
}

void synchronize(Stream) {}

void* allocate_pinned(Stream, size_t bytes) {
  return std::malloc(bytes);
}

void release_pinned(Stream, void* data) {
  std::free(data);
}

void* create_stream(Stream) {
  return nullptr;
}

void destroy_stream(Stream) {}

DeviceCount count_devices() {
  return {.count = 1};
}

DeviceInfo device_info(Stream stream) {
  return {.name = "software GPU",
          .multiprocessors = multiprocessors(stream),
          .compute_capability = compute_capability(stream)};
}

// Few multiprocessors: a persistent kernel's blocks then have several tiles each to go through.
int multiprocessors(Stream) {
  return 4;
}

int compute_capability(Stream) {
  return claimed_capability();
}

}  // namespace engine::kernels::simt
