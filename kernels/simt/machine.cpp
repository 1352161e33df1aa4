#include "kernels/simt/machine.h"

#include <bit>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace engine::kernels::simt {

constinit thread_local Thread* current_thread __attribute__((tls_model("initial-exec"))) = nullptr;

std::string this_thread() {
  const Thread& thread = self();
  const Cluster& cluster = *thread.block->cluster;
  char text[256];
  std::snprintf(text, sizeof text, "kernel %s, block (%u,%u,%u) of (%u,%u,%u), thread %d of %d",
                cluster.kernel, thread.block_index.x, thread.block_index.y, thread.block_index.z,
                cluster.grid.x, cluster.grid.y, cluster.grid.z, thread.linear,
                thread.block->num_threads);
  return text;
}

namespace {

// A lane of `ready` to run next: the lowest, or one that the seed chooses.
int pick_lane(uint32_t ready, Cluster& cluster) {
  if (cluster.schedule.seed == 0) return std::countr_zero(ready);
  const int turn = static_cast<int>(cluster.random() & 31);
  return (std::countr_zero(std::rotr(ready, turn)) + turn) & 31;
}

void release(NamedBarrier& barrier) {
  for (Thread* thread : barrier.waiting) wake(*thread);
  barrier.waiting.clear();
  barrier.arrived = barrier.expected = 0;
  this_cluster().progress = true;
}

// Returns true when this arrival was the last.
bool arrive(int id, int threads) {
  if (id < 0 || id >= kNamedBarriers) fault("there is no barrier %d", id);
  if (threads % kWarpSize != 0 || threads > self().block->num_threads) {
    fault("barrier %d cannot be for %d threads: whole warps of this block only", id, threads);
  }
  NamedBarrier& barrier = self().block->barriers[id];
  if (barrier.expected != 0 && barrier.expected != threads) {
    fault("barrier %d is for %d threads here and for %d in other threads", id, threads,
          barrier.expected);
  }
  barrier.expected = threads;
  return ++barrier.arrived == threads;
}

}  // namespace

void fault(const char* format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  throw KernelFault(this_thread() + ": " + text);
}

void wake(Thread& thread) {
  thread.waits_for = nullptr;
  thread.warp->ready |= 1u << thread.lane;
}

void wait_for(const char* what, uint64_t detail) {
  Thread& thread = self();
  Warp& warp = *thread.warp;
  thread.waits_for = what;
  thread.wait_detail = detail;
  warp.ready &= ~(1u << thread.lane);
  // Straight to the next lane of the warp: half the switches of a detour over the scheduler.
  Cluster& cluster = *thread.block->cluster;
  if (warp.ready) {
    Thread& next = *thread.block->threads[warp.first_thread + pick_lane(warp.ready, cluster)];
    current_thread = &next;
    switch_fiber(thread, next);
  } else {
    switch_fiber(thread, cluster.scheduler);
  }
}

void hold_back() {
  Cluster& cluster = this_cluster();
  const Completion completion = cluster.schedule.completion;
  if (completion == Completion::eager) return;
  if (completion == Completion::random && (cluster.random() & 1)) return;
  cluster.held_back.push_back(&self());
  wait_for("its turn");
}

void sync_block() {
  if (self().block->num_done > 0) {
    fault("__syncthreads() while %d threads of the block have already returned",
          self().block->num_done);
  }
  const int threads = self().block->num_threads;
  if (arrive(0, threads)) {
    if (this_cluster().work) {
      for (Warp& warp : self().block->warps) count_accesses(warp);
    }
    release(self().block->barriers[0]);
  } else {
    self().block->barriers[0].waiting.push_back(&self());
    wait_for("__syncthreads()");
  }
}

void sync_named(int id, int threads) {
  const bool last = arrive(id, threads);
  NamedBarrier& barrier = self().block->barriers[id];
  if (last) {
    release(barrier);
  } else {
    barrier.waiting.push_back(&self());
    wait_for("named barrier", static_cast<uint64_t>(id));
  }
}

void arrive_named(int id, int threads) {
  if (arrive(id, threads)) release(self().block->barriers[id]);
  hold_back();
}

void cluster_arrive() {
  Cluster& cluster = this_cluster();
  self().cluster_phase = cluster.barrier_phase;
  const int all = static_cast<int>(cluster.blocks.size()) * self().block->num_threads;
  if (++cluster.barrier_arrived < all) return;
  cluster.barrier_arrived = 0;
  ++cluster.barrier_phase;
  for (Thread* thread : cluster.barrier_waiting) wake(*thread);
  cluster.barrier_waiting.clear();
  cluster.progress = true;
}

void cluster_wait() {
  Cluster& cluster = this_cluster();
  if (self().cluster_phase != cluster.barrier_phase) return;
  cluster.barrier_waiting.push_back(&self());
  wait_for("cluster barrier");
}

void check_global(const void* address, size_t bytes, Access access) {
  // Kernels walk along arrays: the last few allocations answer nearly always. Nothing is allocated
  // or freed while a kernel runs, and begin of the launch forgets them.
  const auto* const begin = static_cast<const std::byte*>(address);
  Block& block = *self().block;
  if (block.cluster->work) {
    note_access(address, bytes,
                access == Access::read ? AccessKind::global_read : AccessKind::global_write);
  }
  if (access == Access::write) watch_write(address, bytes);
  DeviceAllocation* const recent = block.recent_allocations;
  for (int i = 0; i < Block::kRecentAllocations; ++i) {
    if (begin >= recent[i].begin && begin + bytes <= recent[i].end) [[likely]] {
      if (reinterpret_cast<uintptr_t>(address) % bytes == 0) [[likely]]
        return;
      break;
    }
  }
  const char* const verb = access == Access::read ? "read" : "write";
  const DeviceAllocation found = find_device_allocation(address);
  if (!found.begin || begin + bytes > found.end) {
    const DeviceAllocation nearest = nearest_device_allocation(address);
    if (!nearest.begin) {
      fault("out-of-bounds %s of %zu bytes at %p: there is no device memory below it", verb, bytes,
            address);
    }
    fault(
        "out-of-bounds %s of %zu bytes at %p: %td bytes past the end of the nearest allocation, "
        "of %td bytes (host memory, or an index too large?)",
        verb, bytes, address, begin + bytes - nearest.end, nearest.end - nearest.begin);
  }
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) {
    fault("misaligned %s of %zu bytes at %p", verb, bytes, address);
  }
  block.next_recent = (block.next_recent + 1) % Block::kRecentAllocations;
  recent[block.next_recent] = found;
}

void check_global_range(const void* address, size_t bytes, Access access) {
  const auto* const begin = static_cast<const std::byte*>(address);
  const DeviceAllocation found = find_device_allocation(address);
  if (found.begin && begin + bytes <= found.end) return;
  fault("out-of-bounds %s of %zu bytes at %p by the hardware: not in one device allocation",
        access == Access::read ? "read" : "write", bytes, address);
}

namespace {

// The block of the cluster whose shared memory holds these bytes, or null.
Block* owner_of(const std::byte* begin, size_t bytes) {
  Block* const own = self().block;
  const auto holds = [&](const Block& block) {
    return begin >= block.shared && begin + bytes <= block.shared + block.shared_bytes;
  };
  if (holds(*own)) [[likely]]
    return own;
  for (const auto& other : own->cluster->blocks) {
    if (holds(*other)) return other.get();
  }
  return nullptr;
}

}  // namespace

void check_shared(const void* address, size_t bytes, Access access) {
  const auto* const begin = static_cast<const std::byte*>(address);
  const Thread& thread = self();
  if (this_cluster().work) note_access(address, bytes, AccessKind::shared);
  Block* const owner = owner_of(begin, bytes);
  if (!owner) {
    fault("out-of-bounds %s of %zu bytes of shared memory at offset %td of %zu bytes",
          access == Access::read ? "read" : "write", bytes, begin - thread.block->shared,
          thread.block->shared_bytes);
  }
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) {
    fault("misaligned access of %zu bytes to shared memory at offset %td", bytes,
          begin - owner->shared);
  }
  if (owner != thread.block && owner->num_done == owner->num_threads) {
    fault("access to the shared memory of block %d of the cluster, which has already returned",
          owner->rank);
  }
  if (access == Access::write) {
    const uint32_t mark = owner == thread.block ? (static_cast<uint32_t>(thread.linear) + 1) |
                                                      thread.proxy_fences << 11
                                                : 0;  // threads of another block are not followed
    const size_t first = static_cast<size_t>(begin - owner->shared) / 4;
    for (size_t i = 0; i < (bytes + 3) / 4; ++i) owner->writers[first + i] = mark;
  }
}

uint64_t start_async(std::function<void()> complete) {
  Cluster& cluster = this_cluster();
  const uint64_t ticket = cluster.next_ticket++;
  if (cluster.schedule.completion == Completion::eager) {
    complete();
    cluster.progress = true;
    return ticket;
  }
  const int delay = cluster.schedule.completion == Completion::random
                        ? static_cast<int>(cluster.random() % 32)
                        : -1;  // only when everything waits
  cluster.async.push_back({std::move(complete), delay, ticket, &self()});
  return ticket;
}

namespace {

void finish(const PendingCopy& copy) {
  check_shared(copy.to, copy.bytes, Access::write);  // written now, by this thread
  std::memcpy(copy.to, copy.from, copy.valid_bytes);
  std::memset(copy.to + copy.valid_bytes, 0, copy.bytes - copy.valid_bytes);
}

}  // namespace

void copy_async(void* to, const void* from, int bytes, int valid_bytes) {
  check_shared(to, bytes, Access::write);
  if (valid_bytes > 0) {
    if (valid_bytes == bytes) {
      check_global(from, bytes, Access::read);
    } else {
      if (reinterpret_cast<uintptr_t>(from) % bytes != 0) {
        fault("misaligned asynchronous copy of %d bytes from %p", bytes, from);
      }
      check_global_range(from, valid_bytes, Access::read);
    }
  }
  Thread& thread = self();
  const PendingCopy copy{static_cast<std::byte*>(to), static_cast<const std::byte*>(from),
                         static_cast<uint8_t>(bytes), static_cast<uint8_t>(valid_bytes),
                         thread.copy_group};
  Cluster& cluster = this_cluster();
  const bool now = cluster.schedule.completion == Completion::eager ||
                   (cluster.schedule.completion == Completion::random && (cluster.random() & 1));
  if (now) {
    finish(copy);
    return;
  }
  std::memset(to, 0xFF, bytes);
  thread.copies.push_back(copy);
}

void copy_async_commit() {
  ++self().copy_group;
}

void copy_async_wait(int groups_in_flight) {
  Thread& thread = self();
  const int last_done = thread.copy_group - 1 - groups_in_flight;
  size_t done = 0;
  while (done < thread.copies.size() && thread.copies[done].group <= last_done) {
    finish(thread.copies[done++]);
  }
  thread.copies.erase(thread.copies.begin(), thread.copies.begin() + static_cast<int64_t>(done));
}

}  // namespace engine::kernels::simt
