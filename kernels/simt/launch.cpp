#include "kernels/simt/launch.h"

#include <omp.h>

#include <atomic>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <numeric>

#include "kernels/simt/async.h"
#include "kernels/simt/compare.h"
#include "kernels/simt/machine.h"
#include "kernels/simt/wgmma.h"

namespace engine::kernels::simt {
namespace {

thread_local const std::function<void()>* body_of_launch = nullptr;

// What every GPU thread runs: the kernel, then the thread is over.
void thread_main() {
  Thread& thread = self();
  Cluster& cluster = *thread.block->cluster;
  try {
    (*body_of_launch)();
    if (thread.warp->arrived != 0) {
      fault("the thread returned while other lanes of its warp wait at: %s",
            thread.warp->gathering);
    }
    if (thread.block->barriers[0].arrived != 0) {
      fault("barrier divergence: the thread returned while %d others wait at __syncthreads()",
            thread.block->barriers[0].arrived);
    }
    if (thread.warp->matrix_unit) check_matrix_unit_idle(*thread.warp->matrix_unit);
  } catch (...) {
    if (!cluster.fault) cluster.fault = std::current_exception();
  }
  thread.done = true;
  thread.warp->ready &= ~(1u << thread.lane);
  ++thread.block->num_done;
  --cluster.live_threads;
  cluster.progress = true;
  leave_fiber(thread, cluster.scheduler);
}

// Stacks and shared memory of one OS thread, kept between launches.
struct Worker {
  FiberStacks stacks;
  std::vector<std::byte*> shared;
  size_t shared_bytes = 0;

  ~Worker() {
    for (std::byte* memory : shared) std::free(memory);
  }
  std::byte* shared_memory(size_t index, size_t bytes) {
    // 1024-byte aligned, for swizzled tiles. Rounded up to that, so ASan sees the exact end only
    // through check_shared.
    const size_t rounded = (bytes + 1023) / 1024 * 1024 + 1024;
    if (rounded > shared_bytes) {
      for (std::byte*& memory : shared) {
        std::free(memory);
        memory = nullptr;
      }
      shared_bytes = rounded;
    }
    if (shared.size() <= index) shared.resize(index + 1, nullptr);
    if (!shared[index]) {
      shared[index] = static_cast<std::byte*>(std::aligned_alloc(1024, shared_bytes));
      if (!shared[index]) throw std::bad_alloc();
    }
    std::memset(shared[index], 0xFF, bytes);
    return shared[index];
  }
};
thread_local Worker worker;

[[noreturn]] void report_deadlock(const Cluster& cluster) {
  std::string text = std::string("kernel ") + cluster.kernel + ": deadlock. Threads wait for:";
  for (const auto& block : cluster.blocks) {
    // neighbours that wait for the same thing are one line
    for (int first = 0; first < block->num_threads;) {
      const Thread& thread = *block->threads[first];
      int last = first;
      const auto same = [&](const Thread& other) {
        return other.done == thread.done && other.waits_for == thread.waits_for &&
               other.wait_detail == thread.wait_detail;
      };
      while (last + 1 < block->num_threads && same(*block->threads[last + 1])) ++last;
      if (!thread.done) {
        char line[256];
        std::snprintf(line, sizeof line, "\n  block (%u,%u,%u) threads %d-%d: %s %#llx",
                      block->index.x, block->index.y, block->index.z, first, last,
                      thread.waits_for ? thread.waits_for : "nothing",
                      static_cast<unsigned long long>(thread.wait_detail));
        text += line + describe_mbarrier_wait(thread);
      }
      first = last + 1;
    }
  }
  throw KernelFault(text);
}

// Completes the asynchronous work whose time has come; with `all_wait`, at least the oldest.
void run_async(Cluster& cluster, bool all_wait) {
  const bool random = cluster.schedule.completion == Completion::random;
  for (size_t i = 0; i < cluster.async.size();) {
    AsyncWork& work = cluster.async[i];
    const bool due = random && work.delay-- <= 0;
    if (due || (all_wait && i == 0)) {
      const std::function<void()> complete = std::move(work.complete);
      current_thread = work.issuer;  // for faults
      cluster.async.erase(cluster.async.begin() + static_cast<int64_t>(i));
      complete();
      cluster.progress = true;
      if (!random) return;
      all_wait = false;
    } else {
      ++i;
    }
  }
}

void wake_all(std::vector<Thread*>& threads) {
  for (Thread* thread : threads) wake(*thread);
  threads.clear();
}

void run(Cluster& cluster) {
  const bool random_order = cluster.schedule.seed != 0;
  const size_t blocks = cluster.blocks.size();
  if (cluster.schedule.completion == Completion::eager) cluster.begun = blocks;
  if (random_order) {
    cluster.begun = 1 + cluster.random() % blocks;
    cluster.first_block = cluster.random() % blocks;
  }
  std::vector<Warp*> warps;
  size_t taken = 0;  // blocks whose warps are in `warps`
  size_t turn = 0;
  while (cluster.live_threads > 0) {
    for (; taken < cluster.begun; ++taken) {
      for (Warp& warp : cluster.blocks[(cluster.first_block + taken) % blocks]->warps) {
        warps.push_back(&warp);
      }
    }
    cluster.progress = false;
    if (random_order) {
      wake_all(cluster.held_back);
      turn = cluster.random() % warps.size();
    }
    for (size_t i = 0; i < warps.size(); ++i) {
      Warp& warp = *warps[(i + turn) % warps.size()];
      while (warp.ready) {
        int lane = std::countr_zero(warp.ready);
        if (random_order) {
          const int shift = static_cast<int>(cluster.random() & 31);
          lane = (std::countr_zero(std::rotr(warp.ready, shift)) + shift) & 31;
        }
        Thread& next = *warp.block->threads[warp.first_thread + lane];
        current_thread = &next;
        switch_fiber(cluster.scheduler, next);
        if (cluster.fault) std::rethrow_exception(cluster.fault);
      }
    }
    const bool all_wait = !cluster.progress;
    if (all_wait && !cluster.held_back.empty()) {
      wake_all(cluster.held_back);
    } else if (all_wait && cluster.begun < blocks) {
      ++cluster.begun;
    } else if (!cluster.async.empty()) {
      run_async(cluster, all_wait);
    } else if (all_wait && cluster.live_threads > 0) {
      report_deadlock(cluster);
    }
  }
  while (!cluster.async.empty()) run_async(cluster, true);
  if (cluster.work) {
    cluster.work->blocks += static_cast<int64_t>(blocks);
    for (const auto& block : cluster.blocks) {
      for (Warp& warp : block->warps) count_accesses(warp);  // since they were last together
    }
  }
  check_end(cluster);
}

// Position `i` of all blocks in the order of the schedule: a walk with a stride prime to n.
unsigned order(unsigned i, unsigned n, uint64_t seed) {
  if (seed == 0 || n < 2) return i;
  unsigned stride = static_cast<unsigned>(seed * 0x9E3779B97F4A7C15ULL >> 40) % n;
  while (std::gcd(stride, n) != 1) ++stride;
  return static_cast<unsigned>((static_cast<uint64_t>(i) * stride + seed) % n);
}

struct Grid {
  const char* kernel;
  const LaunchShape& shape;
  Schedule schedule;
  int threads;  // per block
};

// All blocks, on all OS threads. Throws the fault of the first block that has one.
void run_grid(const Grid& grid, uint64_t count, const std::function<void()>& body);

void set_up(Cluster& cluster, const Grid& grid, unsigned index) {
  const LaunchShape& shape = grid.shape;
  cluster.kernel = grid.kernel;
  cluster.grid = shape.grid;
  cluster.block_shape = shape.block;
  cluster.schedule = grid.schedule;
  cluster.random_state = (grid.schedule.seed + 1) * 0x9E3779B97F4A7C15ULL ^ (index + 1ULL) << 20;
  cluster.live_threads = static_cast<int>(shape.cluster) * grid.threads;
  cluster.progress = false;
  cluster.barrier_phase = 0;
  cluster.barrier_arrived = 0;
  cluster.next_ticket = 1;
  cluster.held_back.clear();
  cluster.begun = 1;
  cluster.first_block = 0;
  worker.stacks.reserve(cluster.live_threads);
  if (cluster.blocks.empty()) {
    for (unsigned rank = 0; rank < shape.cluster; ++rank) {
      auto block = std::make_unique<Block>();
      block->cluster = &cluster;
      block->rank = static_cast<int>(rank);
      block->num_threads = grid.threads;
      block->warps.resize(grid.threads / kWarpSize);
      for (int t = 0; t < grid.threads; ++t) block->threads.push_back(std::make_unique<Thread>());
      cluster.blocks.push_back(std::move(block));
    }
  }
  const unsigned clusters_x = shape.grid.x / shape.cluster;
  for (unsigned rank = 0; rank < shape.cluster; ++rank) {
    Block& block = *cluster.blocks[rank];
    block.index = {index % clusters_x * shape.cluster + rank, index / clusters_x % shape.grid.y,
                   index / clusters_x / shape.grid.y};
    block.shared = worker.shared_memory(rank, shape.shared_bytes);
    block.shared_bytes = shape.shared_bytes;
    block.num_done = 0;
    block.mbarriers.clear();
    block.writers.assign((shape.shared_bytes + 3) / 4, 0);
    std::fill(std::begin(block.warpgroup_registers), std::end(block.warpgroup_registers), 0);
    for (NamedBarrier& barrier : block.barriers) barrier = {};
    for (size_t w = 0; w < block.warps.size(); ++w) {
      Warp& warp = block.warps[w];
      warp.block = &block;
      warp.first_thread = static_cast<int>(w) * kWarpSize;
      warp.ready = 0xffffffffu;
      warp.arrived = 0;
      warp.parity = 0;
      warp.matrix_unit.reset();
    }
    for (int t = 0; t < grid.threads; ++t) {
      Thread& thread = *block.threads[t];
      thread.linear = t;
      thread.lane = t % kWarpSize;
      thread.done = false;
      thread.warp = &block.warps[t / kWarpSize];
      thread.block = &block;
      thread.waits_for = nullptr;
      thread.wait_detail = 0;
      thread.copies.clear();
      thread.copy_group = 0;
      thread.bulk_stores.clear();
      thread.bulk_group = 0;
      thread.proxy_fences = 0;
      thread.block_index = block.index;
      const unsigned u = static_cast<unsigned>(t);
      thread.thread_index = {u % shape.block.x, u / shape.block.x % shape.block.y,
                             u / shape.block.x / shape.block.y};
      worker.stacks.prepare(thread, static_cast<int>(rank) * grid.threads + t, thread_main);
    }
  }
}

}  // namespace

void launch(const char* kernel, const LaunchShape& shape, const std::function<void()>& body) {
  Grid grid{kernel, shape, current_schedule(),
            static_cast<int>(shape.block.x * shape.block.y * shape.block.z)};
  const std::string name = std::string("launch of ") + kernel + ": ";
  if (grid.threads == 0 || grid.threads > 1024 || grid.threads % kWarpSize != 0) {
    throw KernelFault(name + std::to_string(grid.threads) +
                      " threads per block; 32 to 1024 are possible, in whole warps");
  }
  if (shape.cluster == 0 || shape.cluster > 16 || shape.grid.x % shape.cluster != 0) {
    throw KernelFault(name + "clusters of " + std::to_string(shape.cluster) +
                      " do not divide a grid of " + std::to_string(shape.grid.x));
  }
  if (shape.shared_bytes > 227 * 1024) {
    throw KernelFault(name + std::to_string(shape.shared_bytes) +
                      " bytes of shared memory; a block can have 232448");
  }
  if (shape.grid.y > 65535 || shape.grid.z > 65535) {
    throw KernelFault(name + "a grid of more than 65535 in y or z");
  }
  const uint64_t count = uint64_t{shape.grid.x} / shape.cluster * shape.grid.y * shape.grid.z;
  if (count == 0) throw KernelFault(name + "an empty grid");

  const DeviceAccess access;
  if (grid.schedule.completion != Completion::compare) {
    run_grid(grid, count, body);
    return;
  }
  run_and_compare(kernel, [&](const Schedule& schedule) {
    grid.schedule = schedule;
    run_grid(grid, count, body);
  });
}

namespace {

void run_grid(const Grid& grid, uint64_t count, const std::function<void()>& body) {
  std::exception_ptr first_fault;
  std::atomic<uint64_t> first_block = count;  // that faulted
  std::mutex fault_mutex;
  const int workers =
      static_cast<int>(std::min<uint64_t>(count, static_cast<uint64_t>(omp_get_max_threads())));
#pragma omp parallel num_threads(workers)
  {
    Cluster cluster;
    KernelWork work;
    const bool count_work = counting.load(std::memory_order_relaxed);
    if (count_work) cluster.work = &work;
    body_of_launch = &body;
#pragma omp for schedule(dynamic)
    for (uint64_t i = 0; i < count; ++i) {
      const unsigned index =
          order(static_cast<unsigned>(i), static_cast<unsigned>(count), grid.schedule.seed);
      // Blocks before it still run: the fault that is reported is always the same one.
      if (index > first_block.load(std::memory_order_relaxed)) continue;
      try {
        set_up(cluster, grid, index);
        run(cluster);
      } catch (...) {
        const std::lock_guard lock(fault_mutex);
        if (index < first_block) {
          first_block = index;
          first_fault = std::current_exception();
        }
        // Threads that never finished leave their waits behind: start the next one afresh.
        cluster = Cluster{};
        if (count_work) cluster.work = &work;
      }
    }
    current_thread = nullptr;
    if (omp_get_thread_num() == 0) work.launches = 1;
    if (count_work) add_to_totals(grid.kernel, work);
  }
  if (first_fault) std::rethrow_exception(first_fault);
}

}  // namespace

}  // namespace engine::kernels::simt
