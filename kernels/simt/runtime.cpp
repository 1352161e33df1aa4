// Memory, copies and properties of the software GPU. Its queues: stream.cpp.
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>

#include "kernels/cuda/cuda.h"
#include "kernels/simt/device_memory.h"
#include "kernels/simt/launch.h"
#include "kernels/simt/stream.h"

namespace engine::kernels::simt {
namespace {

// Pinned blocks: begin -> bytes. Copies from them are made when their turn comes; what lies
// elsewhere is read at once.
struct PinnedBlocks {
  std::mutex mutex;
  std::map<const std::byte*, size_t> blocks;
};
PinnedBlocks& pinned_blocks() {
  static PinnedBlocks* const instance = new PinnedBlocks;  // outlives every static that frees
  return *instance;
}

bool is_pinned(const void* data, size_t bytes) {
  const auto* const begin = static_cast<const std::byte*>(data);
  PinnedBlocks& pinned = pinned_blocks();
  const std::lock_guard lock(pinned.mutex);
  auto after = pinned.blocks.upper_bound(begin);
  if (after == pinned.blocks.begin()) return false;
  --after;
  return begin + bytes <= after->first + after->second;
}

void move(void* to, const void* from, size_t bytes) {
  const DeviceAccess access;
  std::memmove(to, from, bytes);
}

}  // namespace

void* allocate(Stream, size_t bytes) {
  return allocate_device_memory(bytes);
}

void set_zero(Stream stream, void* data, size_t bytes) {
  if (!bytes) return;
  submit(stream, [=] {
    const DeviceAccess access;
    std::memset(data, 0, bytes);
  });
}

void copy(Stream stream, void* to, const void* from, size_t bytes) {
  if (bytes) submit(stream, [=] { move(to, from, bytes); });
}

void copy_to_device(Stream stream, void* to, const void* from, size_t bytes) {
  require_not_recording(stream, "copy_to_device");
  if (!bytes) return;
  if (!stream.handle || is_pinned(from, bytes)) return copy(stream, to, from, bytes);
  const std::shared_ptr<std::byte[]> kept(new std::byte[bytes]);
  std::memcpy(kept.get(), from, bytes);
  submit(stream, [=] { move(to, kept.get(), bytes); });
}

void copy_to_host(Stream stream, void* to, const void* from, size_t bytes) {
  finish(stream);
  if (bytes) move(to, from, bytes);
}

void copy_to_host_async(Stream stream, void* to, const void* from, size_t bytes) {
  require_not_recording(stream, "copy_to_host_async");
  copy(stream, to, from, bytes);
}

void synchronize(Stream stream) {
  finish(stream);
}

void* allocate_pinned(Stream, size_t bytes) {
  void* const data = std::malloc(bytes);
  if (!data) return nullptr;
  PinnedBlocks& pinned = pinned_blocks();
  const std::lock_guard lock(pinned.mutex);
  pinned.blocks[static_cast<std::byte*>(data)] = bytes;
  return data;
}

void release_pinned(Stream, void* data) {
  if (!data) return;
  {
    PinnedBlocks& pinned = pinned_blocks();
    const std::lock_guard lock(pinned.mutex);
    pinned.blocks.erase(static_cast<std::byte*>(data));
  }
  std::free(data);
}

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
