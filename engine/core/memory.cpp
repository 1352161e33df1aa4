#include "engine/core/memory.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>

#include "engine/core/error.h"
#include "kernels/api/operations.h"

namespace engine {
namespace {

// Addresses of the meta device: never dereferenced, far from anything mapped.
constexpr uintptr_t kMetaArena = uintptr_t{1} << 46;
constexpr uintptr_t kMetaPersistent = uintptr_t{1} << 45;

size_t round_up(size_t bytes) {
  return (bytes + Memory::kAlignment - 1) / Memory::kAlignment * Memory::kAlignment;
}

}  // namespace

const char* name_of(MemoryCategory category) {
  switch (category) {
    case MemoryCategory::weights:
      return "weights";
    case MemoryCategory::master:
      return "master";
    case MemoryCategory::optimizer:
      return "adam";
    case MemoryCategory::gradients:
      return "grads";
    case MemoryCategory::activations:
      return "activations";
    case MemoryCategory::workspace:
      return "workspace";
    case MemoryCategory::kv_cache:
      return "kv cache";
    case MemoryCategory::batch:
      return "batch";
  }
  return "?";
}

Memory::Memory(const kernels::Stream& stream)
    : stream_(stream), next_meta_address_(kMetaPersistent) {
  if (is_meta()) {
    arena_ = reinterpret_cast<char*>(kMetaArena);
    arena_capacity_ = size_t{1} << 45;
  }
}

Memory::~Memory() {
  if (arena_ && !is_meta()) give_to_device(arena_);
}

void* Memory::take_from_device(size_t bytes) {
  if (is_meta()) {
    void* data = reinterpret_cast<void*>(next_meta_address_);
    next_meta_address_ += bytes;
    return data;
  }
  void* const data = kernels::operations(stream_).allocate(stream_, bytes);
  if (!data) {
    throw Error(ExitCode::out_of_memory, "MEM-ALLOC",
                fmt::format("{} refused {:.2f} GiB of memory",
                            device() == kernels::DeviceType::cuda ? "the GPU" : "the system",
                            bytes / double(1 << 30)))
        .with("held", fmt::format("{:.2f} GiB by this run already", total_ / double(1 << 30)))
        .fix("see `--dry-run` for the memory plan and what would make it smaller");
  }
  return data;
}

void Memory::give_to_device(void* data) {
  if (!is_meta()) kernels::operations(stream_).release(stream_, data);
}

void Memory::reserve_arena(size_t bytes) {
  kernels::require(live_transient_ == 0, "Memory::reserve_arena: transient blocks are alive");
  if (is_meta()) return;
  if (arena_) give_to_device(arena_);
  arena_ = nullptr;
  arena_capacity_ = 0;
  arena_end_ = 0;
  free_by_offset_.clear();
  free_by_size_.clear();
  if (bytes == 0) return;
  arena_ = static_cast<char*>(take_from_device(round_up(bytes)));
  arena_capacity_ = round_up(bytes);
}

void Memory::count(const Block& block, bool allocated) {
  size_t& live = live_[static_cast<int>(block.category)];
  if (!allocated) {
    live -= block.bytes;
    total_ -= block.bytes;
    return;
  }
  live += block.bytes;
  total_ += block.bytes;
  if (total_ > peak_total_) {
    peak_total_ = total_;
    peak_breakdown_ = live_;
  }
}

void Memory::reset_peak() {
  peak_total_ = total_;
  peak_breakdown_ = live_;
  arena_peak_ = arena_end_;
  unplanned_peak_ = unplanned_;
}

Memory::Block Memory::allocate(size_t bytes, MemoryCategory category, bool persistent) {
  Block block{nullptr, round_up(std::max<size_t>(bytes, 1)), category, persistent};
  if (persistent) {
    block.data = take_from_device(block.bytes);
    persistent_bytes_ += block.bytes;
    count(block, true);
    return block;
  }
  // Best fit: the smallest free range that holds it, the lowest of equals.
  size_t offset;
  if (auto fit = free_by_size_.lower_bound({block.bytes, 0}); fit != free_by_size_.end()) {
    const size_t range = fit->first;
    offset = fit->second;
    free_by_size_.erase(fit);
    free_by_offset_.erase(offset);
    if (range > block.bytes) {
      free_by_offset_.emplace(offset + block.bytes, range - block.bytes);
      free_by_size_.emplace(range - block.bytes, offset + block.bytes);
    }
  } else if (arena_end_ + block.bytes <= arena_capacity_) {
    offset = arena_end_;
    arena_end_ += block.bytes;
    arena_peak_ = std::max(arena_peak_, arena_end_);
  } else {
    block.data = take_from_device(block.bytes);
    unplanned_ += block.bytes;
    unplanned_peak_ = std::max(unplanned_peak_, unplanned_);
    count(block, true);
    return block;
  }
  block.data = arena_ + offset;
  live_transient_ += block.bytes;
  count(block, true);
  return block;
}

void Memory::release(const Block& block) {
  if (!block.data) return;
  count(block, false);
  if (block.persistent) {
    persistent_bytes_ -= block.bytes;
    give_to_device(block.data);
    return;
  }
  char* data = static_cast<char*>(block.data);
  if (data < arena_ || data >= arena_ + arena_capacity_) {
    unplanned_ -= block.bytes;
    give_to_device(block.data);
    return;
  }
  live_transient_ -= block.bytes;
  size_t offset = static_cast<size_t>(data - arena_);
  size_t bytes = block.bytes;
  // Merge with the free neighbours.
  auto next = free_by_offset_.lower_bound(offset);
  if (next != free_by_offset_.end() && offset + bytes == next->first) {
    bytes += next->second;
    free_by_size_.erase({next->second, next->first});
    next = free_by_offset_.erase(next);
  }
  if (next != free_by_offset_.begin()) {
    auto previous = std::prev(next);
    if (previous->first + previous->second == offset) {
      offset = previous->first;
      bytes += previous->second;
      free_by_size_.erase({previous->second, previous->first});
      free_by_offset_.erase(previous);
    }
  }
  if (offset + bytes == arena_end_) {
    arena_end_ = offset;
    return;
  }
  free_by_offset_.emplace(offset, bytes);
  free_by_size_.emplace(bytes, offset);
}

size_t available_host_memory() {
  size_t available = SIZE_MAX;
  std::ifstream meminfo("/proc/meminfo");
  for (std::string line; std::getline(meminfo, line);) {
    size_t kib;
    if (std::sscanf(line.c_str(), "MemAvailable: %zu kB", &kib) == 1) available = kib * 1024;
  }
  size_t limit, used;
  std::ifstream maximum("/sys/fs/cgroup/memory.max"), current("/sys/fs/cgroup/memory.current");
  if (maximum >> limit && current >> used)
    available = std::min(available, limit - std::min(used, limit));
  return available;
}

size_t peak_resident_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<size_t>(usage.ru_maxrss) * 1024;
}

}  // namespace engine
