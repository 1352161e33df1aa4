#include "kernels/simt/device_memory.h"

#include <sys/mman.h>

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

// Protection: every allocation is pages of its own, closed unless someone holds a DeviceAccess.
const bool protection = [] {
  const char* const wanted = std::getenv("ENGINE_SIMT_PROTECT");
  return wanted && std::strcmp(wanted, "1") == 0;
}();
constexpr size_t kPage = 4096;

struct ProtectedPages {
  std::mutex mutex;
  std::map<std::byte*, size_t> blocks;  // begin -> bytes
  int accesses = 0;
};
ProtectedPages& protected_pages() {
  static ProtectedPages* const instance = new ProtectedPages;
  return *instance;
}

// With the mutex held.
void protect_all(ProtectedPages& pages, int protection_flags) {
  for (const auto& [data, bytes] : pages.blocks) mprotect(data, bytes, protection_flags);
}

std::byte* take_host_memory(size_t bytes) {
  if (!protection) {
    auto* const data = static_cast<std::byte*>(std::aligned_alloc(kAlignment, bytes));
    if (data) std::memset(data, 0xFF, bytes);
    return data;
  }
  const size_t rounded = (bytes + kPage - 1) / kPage * kPage;
  void* const memory =
      mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  std::memset(memory, 0xFF, rounded);
  ProtectedPages& pages = protected_pages();
  const std::lock_guard lock(pages.mutex);
  pages.blocks[static_cast<std::byte*>(memory)] = rounded;
  if (pages.accesses == 0) mprotect(memory, rounded, PROT_NONE);
  return static_cast<std::byte*>(memory);
}

void give_host_memory(void* data) {
  if (!protection) {
    std::free(data);
    return;
  }
  ProtectedPages& pages = protected_pages();
  const std::lock_guard lock(pages.mutex);
  const auto block = pages.blocks.find(static_cast<std::byte*>(data));
  munmap(data, block->second);
  pages.blocks.erase(block);
}

}  // namespace

DeviceAccess::DeviceAccess() {
  if (!protection) return;
  ProtectedPages& pages = protected_pages();
  const std::lock_guard lock(pages.mutex);
  if (pages.accesses++ == 0) protect_all(pages, PROT_READ | PROT_WRITE);
}

DeviceAccess::~DeviceAccess() {
  if (!protection) return;
  ProtectedPages& pages = protected_pages();
  const std::lock_guard lock(pages.mutex);
  if (--pages.accesses == 0) protect_all(pages, PROT_NONE);
}

void* allocate_device_memory(size_t bytes) {
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment + kAlignment;
  std::byte* const data = take_host_memory(rounded);
  if (!data) return nullptr;
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
  give_host_memory(data);
}

DeviceAllocation nearest_device_allocation(const void* address) {
  const auto* const byte = static_cast<const std::byte*>(address);
  const std::shared_lock lock(registry().mutex);
  auto after = registry().ranges.upper_bound(byte);
  if (after == registry().ranges.begin()) return {};
  --after;
  return {after->first, after->second};
}

std::vector<DeviceAllocation> device_allocations() {
  const std::shared_lock lock(registry().mutex);
  std::vector<DeviceAllocation> all;
  for (const auto& [begin, end] : registry().ranges) all.push_back({begin, end});
  return all;
}

DeviceAllocation find_device_allocation(const void* address) {
  const DeviceAllocation nearest = nearest_device_allocation(address);
  return static_cast<const std::byte*>(address) < nearest.end ? nearest : DeviceAllocation{};
}

}  // namespace engine::kernels::simt
