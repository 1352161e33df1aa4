// Clusters (sm_90): neighbouring blocks along x that run at the same time on neighbouring
// multiprocessors and reach each other's shared memory. LaunchConfig::cluster says how many.
// Also here, since they belong to kernels with warpgroups (4 warps): setmaxnreg and elect.
#pragma once

#include "kernels/cuda/device/memory.h"
#if !ENGINE_ON_GPU
#include "kernels/simt/async.h"
#endif

namespace engine::kernels::ENGINE_GPU {

ENGINE_DEVICE int cluster_rank() {
#if ENGINE_ON_GPU
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
#else
  return self().block->rank;
#endif
}
ENGINE_DEVICE int cluster_size() {
#if ENGINE_ON_GPU
  uint32_t size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return static_cast<int>(size);
#else
  return static_cast<int>(this_cluster().blocks.size());
#endif
}

// Barrier of all threads of the cluster, in two halves. No block may return while others may still
// write to its shared memory or arrive at its barriers: end with sync_cluster().
ENGINE_DEVICE void arrive_cluster_barrier() {
#if ENGINE_ON_GPU
  asm volatile("barrier.cluster.arrive.release.aligned;" : : : "memory");
#else
  cluster_arrive();
#endif
}
ENGINE_DEVICE void wait_cluster_barrier() {
#if ENGINE_ON_GPU
  asm volatile("barrier.cluster.wait.acquire.aligned;" : : : "memory");
#else
  cluster_wait();
#endif
}
ENGINE_DEVICE void sync_cluster() {
  arrive_cluster_barrier();
  wait_cluster_barrier();
}

// The same place in the shared memory of block `rank`: for load() and store().
template <typename T>
ENGINE_DEVICE Shared<T> at_rank(Shared<T> here, int rank) {
#if ENGINE_ON_GPU
  uint64_t there;
  asm("mapa.u64 %0, %1, %2;"
      : "=l"(there)
      : "l"(reinterpret_cast<uint64_t>(here.pointer)), "r"(rank));
  return {reinterpret_cast<T*>(there)};
#else
  return {static_cast<T*>(map_to_rank(here.pointer, rank))};
#endif
}

// Registers per thread of this warpgroup from here on: all its 128 threads call it, in a kernel
// with
// __launch_bounds__(threads, 1). A multiple of 8; give some up in one warpgroup before another
// takes more. Over all warpgroups 128 * sum may be 64512 at most.
template <int count>
ENGINE_DEVICE void take_registers() {
  static_assert(count % 8 == 0 && count >= 24 && count <= 256);
#if ENGINE_ON_GPU
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" : : "n"(count));
#else
  set_registers(count);
#endif
}
template <int count>
ENGINE_DEVICE void give_up_registers() {
  static_assert(count % 8 == 0 && count >= 24 && count <= 256);
#if ENGINE_ON_GPU
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" : : "n"(count));
#else
  set_registers(count);
#endif
}

// True in one lane of the warp, always the same one.
ENGINE_DEVICE bool elect_lane() {
#if ENGINE_ON_GPU
  uint32_t elected;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "elect.sync _|p, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}"
      : "=r"(elected));
  return elected != 0;
#else
  gather_warp("elect", [](Warp&) {});
  return lane_index() == 0;
#endif
}

}  // namespace engine::kernels::ENGINE_GPU
