// Inside the software GPU: threads, warps, blocks and clusters, and how they wait for each other.
//
// One cluster (mostly: one block) at a time runs on an OS thread; its GPU threads are fibers that
// run until they wait. There is no preemption, so plain C++ between two waits needs no locks;
// other clusters run on other OS threads and meet only in device memory.
//
// A thread that waits gives its reason, and whoever ends the wait marks it ready again. When no
// thread is ready, asynchronous work is completed, oldest first; when there is none left, the
// kernel is deadlocked and the report says who waits for what.
#pragma once

#include <atomic>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/simt/counters.h"
#include "kernels/simt/device_memory.h"
#include "kernels/simt/fiber.h"
#include "kernels/simt/launch.h"

namespace engine::kernels::simt {

struct Block;
struct BulkStore;
struct Cluster;
struct MatrixUnit;
struct Mbarrier;
struct Warp;

inline constexpr int kWarpSize = 32;
inline constexpr int kNamedBarriers = 16;
// The largest thing a lane hands to its warp: an mma's A and B fragments and the address of D.
inline constexpr size_t kSlotBytes = 64;

// One cp.async of 4, 8 or 16 bytes that has been issued.
struct PendingCopy {
  std::byte* to;
  const std::byte* from;
  uint8_t bytes, valid_bytes;  // beyond valid_bytes zeros are written
  int group;
};

// For counters.h: an access to memory that has been made.
struct AccessRecord {
  uintptr_t address;
  uint32_t bytes;
};
enum class AccessKind : uint8_t { global_read, global_write, shared };
inline constexpr size_t kAccessKinds = 3;

struct Thread : Fiber {
  Dim3 thread_index, block_index;
  int linear = 0;  // index in the block
  int lane = 0;
  bool done = false;
  Warp* warp = nullptr;
  Block* block = nullptr;
  const char* waits_for = nullptr;  // null while it can run
  uint64_t wait_detail = 0;
  std::vector<PendingCopy> copies;                      // cp.async, in order of issue
  int copy_group = 0;                                   // the group that is being filled
  std::vector<std::shared_ptr<BulkStore>> bulk_stores;  // async.h, in order of issue
  int bulk_group = 0;
  uint32_t proxy_fences = 0;  // fence.proxy.async executed so far
  unsigned cluster_phase = 0;
  std::vector<AccessRecord> accesses[kAccessKinds];  // while counting, until the warp is together
};

struct Warp {
  Block* block = nullptr;
  int first_thread = 0;
  uint32_t ready = 0;
  // The operation that lanes are gathering for. Slots are two deep: a lane may hand in its next
  // value while others still read the last.
  const char* gathering = nullptr;
  uint32_t arrived = 0;
  int parity = 0;
  alignas(64) std::byte slots[2][kWarpSize][kSlotBytes];
  std::shared_ptr<MatrixUnit> matrix_unit;  // wgmma.h; null until used
};

struct NamedBarrier {
  int arrived = 0;
  int expected = 0;
  std::vector<Thread*> waiting;
};

// Work that the hardware does beside the threads.
struct AsyncWork {
  std::function<void()> complete;
  int delay = 0;  // scheduler rounds until it happens by itself (random schedules)
  uint64_t ticket = 0;
  Thread* issuer = nullptr;
};

struct Block {
  Cluster* cluster = nullptr;
  int rank = 0;  // in the cluster
  Dim3 index;
  std::byte* shared = nullptr;
  size_t shared_bytes = 0;
  int num_threads = 0, num_done = 0;
  std::vector<Warp> warps;
  std::vector<std::unique_ptr<Thread>> threads;
  NamedBarrier barriers[kNamedBarriers];
  std::vector<std::shared_ptr<Mbarrier>> mbarriers;  // async.h
  // Who wrote each 4 bytes of shared memory last through store(), and whether it has fenced since:
  // 0 nobody, else 1 + thread + (fences of the thread at the time << 11).
  std::vector<uint32_t> writers;
  int warpgroup_registers[8] = {};  // per thread, by setmaxnreg; 0 = as launched
  // Device memory that its threads touched last.
  static constexpr int kRecentAllocations = 8;
  DeviceAllocation recent_allocations[kRecentAllocations];
  int next_recent = 0;
};

struct Cluster {
  std::vector<std::unique_ptr<Block>> blocks;
  Fiber scheduler;
  const char* kernel = nullptr;
  Dim3 grid, block_shape;
  Schedule schedule;
  uint64_t random_state = 1;
  int live_threads = 0;
  bool progress = false;  // since the scheduler looked last
  unsigned barrier_phase = 0;
  int barrier_arrived = 0;
  std::vector<Thread*> barrier_waiting;
  std::deque<AsyncWork> async;
  uint64_t next_ticket = 1;
  std::vector<Thread*> held_back;  // by hold_back()
  // Blocks that have begun: the others begin when these can do no more. The first is `first_block`.
  size_t begun = 1, first_block = 0;
  std::exception_ptr fault;
  KernelWork* work = nullptr;  // null unless counting

  uint32_t random() {  // xorshift64*
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return static_cast<uint32_t>((random_state * 0x2545F4914F6CDD1DULL) >> 32);
  }
};

// The thread that runs on this OS thread. initial-exec and constinit: one instruction, no call of a
// wrapper that might have to initialise it (whose result UBSan takes for null).
extern constinit thread_local Thread* current_thread __attribute__((tls_model("initial-exec")));

inline Thread& self() {
  return *current_thread;
}
inline Cluster& this_cluster() {
  return *self().block->cluster;
}

// Ends the launch with a KernelFault: kernel, block, thread, then the message (printf format).
[[noreturn]] void fault(const char* format, ...) __attribute__((format(printf, 1, 2)));

// "kernel K, block (x,y,z) of (X,Y,Z), thread T of N" of this thread.
std::string this_thread();

// Stops this thread until someone calls wake() on it.
void wait_for(const char* what, uint64_t detail = 0);
void wake(Thread& thread);
// After a signal to others: lets them go on before this thread does whatever comes next, so that a
// signal given too early shows. Lazy: they go as far as they can; random: perhaps; eager: not.
void hold_back();

// --- Counting (counters.h) ---------------------------------------------------------------------

extern std::atomic<bool> counting;
void note_access(const void* address, size_t bytes, AccessKind kind);
// Counts what the lanes of a warp have done since they were last together.
void count_accesses(Warp& warp);
void add_to_totals(const std::string& kernel, const KernelWork& work);

inline void count_special_function() {
  if (KernelWork* const work = this_cluster().work) ++work->special_functions;
}
// A matrix instruction of a warp or warpgroup: 2 m n k.
inline void count_tensor_flops(int64_t flops) {
  if (KernelWork* const work = this_cluster().work) work->tensor_flops += flops;
}

// --- Warps -------------------------------------------------------------------------------------

// Gathers all 32 lanes at one operation; the last one to come runs `together` for the whole warp.
// `what` is a string literal: lanes at different operations are a fault.
template <typename Together>
void gather_warp(const char* what, Together together) {
  Thread& thread = self();
  Warp& warp = *thread.warp;
  if (warp.arrived != 0 && warp.gathering != what && std::strcmp(warp.gathering, what) != 0) {
    fault("the lanes of a warp are at different operations: %s here, %s in others", what,
          warp.gathering);
  }
  warp.gathering = what;
  warp.arrived |= 1u << thread.lane;
  if (warp.arrived != 0xffffffffu) {
    wait_for(what);
    return;
  }
  together(warp);
  if (this_cluster().work) count_accesses(warp);
  warp.arrived = 0;
  warp.parity ^= 1;
  warp.ready = 0xffffffffu;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    thread.block->threads[warp.first_thread + lane]->waits_for = nullptr;
  }
  this_cluster().progress = true;
}

// Every lane hands in `value`; all get all 32, valid until the lane's next warp operation.
template <typename T>
const std::byte (*exchange(const char* what, const T& value))[kSlotBytes] {
  static_assert(sizeof(T) <= kSlotBytes);
  Thread& thread = self();
  auto* const slots = thread.warp->slots[thread.warp->parity];
  std::memcpy(slots[thread.lane], &value, sizeof value);
  gather_warp(what, [](Warp&) {});
  return slots;
}
template <typename T>
T slot_value(const std::byte (*slots)[kSlotBytes], int lane) {
  T value;
  std::memcpy(&value, slots[lane], sizeof value);
  return value;
}

// --- Barriers ----------------------------------------------------------------------------------

void sync_block();                          // __syncthreads: every thread of the block
void sync_named(int barrier, int threads);  // bar.sync: waits for `threads` arrivals
void arrive_named(int barrier, int threads);
void cluster_arrive();
void cluster_wait();

// --- Memory ------------------------------------------------------------------------------------

enum class Access : uint8_t { read, write };
// Faults unless [address, address + bytes) lies in one device allocation, aligned to `bytes`.
void check_global(const void* address, size_t bytes, Access access);
// The same for the shared memory of this block, or of another one of the cluster. A write is noted
// in Block::writers.
void check_shared(const void* address, size_t bytes, Access access);
// Faults unless [address, address + bytes) lies in one device allocation; any alignment.
void check_global_range(const void* address, size_t bytes, Access access);

// The byte of device memory whose writers compare.h asks for; null otherwise. Set between launches.
extern const std::byte* watched_byte;
void note_watched_write();
inline void watch_write(const void* address, size_t bytes) {
  const auto* const begin = static_cast<const std::byte*>(address);
  if (watched_byte && begin <= watched_byte && watched_byte < begin + bytes) note_watched_write();
}

// --- Asynchronous work -------------------------------------------------------------------------

// Queues work of the hardware; done at once on eager schedules. Returns its ticket. Faults of the
// work name the thread that started it.
uint64_t start_async(std::function<void()> complete);

// cp.async: `valid_bytes` of `bytes` from device memory to shared memory, then zeros.
void copy_async(void* to, const void* from, int bytes, int valid_bytes);
void copy_async_commit();
void copy_async_wait(int groups_in_flight);

}  // namespace engine::kernels::simt
