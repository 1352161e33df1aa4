#include "kernels/simt/device_memory.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <shared_mutex>

namespace engine::kernels::simt {
namespace {

// Behind each allocation lie bytes that belong to nobody, so neighbours never touch.
constexpr size_t kAlignment = 256;

struct Registry {
  std::shared_mutex mutex;
  std::map<const std::byte*, const std::byte*> ranges;  // begin -> end
};
Registry& registry() {
  static Registry* const instance = new Registry;  // outlives every static that frees in the end
  return *instance;
}

}  // namespace

void* allocate_device_memory(size_t bytes) {
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment + kAlignment;
  auto* const data = static_cast<std::byte*>(std::aligned_alloc(kAlignment, rounded));
  if (!data) return nullptr;
  std::memset(data, 0xFF, rounded);
  const std::unique_lock lock(registry().mutex);
  registry().ranges[data] = data + bytes;
  return data;
}

void free_device_memory(void* data) {
  if (!data) return;
  {
    const std::unique_lock lock(registry().mutex);
    registry().ranges.erase(static_cast<std::byte*>(data));
  }
  std::free(data);
}

DeviceAllocation nearest_device_allocation(const void* address) {
  const auto* const byte = static_cast<const std::byte*>(address);
  const std::shared_lock lock(registry().mutex);
  auto after = registry().ranges.upper_bound(byte);
  if (after == registry().ranges.begin()) return {};
  --after;
  return {after->first, after->second};
}

DeviceAllocation find_device_allocation(const void* address) {
  const DeviceAllocation nearest = nearest_device_allocation(address);
  return static_cast<const std::byte*>(address) < nearest.end ? nearest : DeviceAllocation{};
}

}  // namespace engine::kernels::simt
