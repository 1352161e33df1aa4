// mbarriers (sm_90): barriers in shared memory that count arrivals of threads and bytes of
// asynchronous copies. What pipelines between TMA and the tensor cores are made of.
//
// An mbarrier goes through phases 0, 1, 2 ... A phase is complete when as many arrivals as
// mbarrier_init() said have come and every expected byte has. mbarrier_wait(b, p) returns once the
// current phase's parity is not p, that is: when the phase of parity p is complete. On a new
// barrier wait(b, 0) waits and wait(b, 1) does not. So with `state` counting in a ring of slots
//   consumer:  wait(full[state.slot], state.parity);      ... read ...  arrive(empty[state.slot])
//   producer:  wait(empty[state.slot], state.parity ^ 1); ... load ...
// where the producer's first round finds all slots free.
//
// After mbarrier_init() the same thread calls fence_mbarrier_init(), then a barrier of the block
// (of the cluster, when other blocks arrive or send) comes before anybody uses it.
#pragma once

#include "kernels/cuda/device/memory.h"
#if !ENGINE_ON_GPU
#include "kernels/simt/async.h"
#endif

namespace engine::kernels::ENGINE_GPU {

using MbarrierAddress = Shared<uint64_t>;  // 8-byte aligned

// By one thread: a barrier whose phases expect `arrivals` arrivals.
ENGINE_DEVICE void mbarrier_init(MbarrierAddress barrier, int arrivals) {
#if ENGINE_ON_GPU
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;"
               :
               : "r"(shared_address(barrier)), "r"(arrivals)
               : "memory");
#else
  init_mbarrier(barrier.pointer, static_cast<uint32_t>(arrivals));
#endif
}
// Makes the initialisations of this thread visible to the cluster and to TMA.
ENGINE_DEVICE void fence_mbarrier_init() {
#if ENGINE_ON_GPU
  asm volatile("fence.mbarrier_init.release.cluster;" : : : "memory");
#else
  fence_mbarriers();
#endif
}
ENGINE_DEVICE void mbarrier_arrive(MbarrierAddress barrier) {
#if ENGINE_ON_GPU
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];"
               :
               : "r"(shared_address(barrier))
               : "memory");
#else
  arrive_mbarrier(barrier.pointer);
#endif
}
// Arrives at the barrier at the same place in block `rank` of the cluster, after what this thread
// wrote is visible to all of it: that costs a fence over all of the thread's memory.
ENGINE_DEVICE void mbarrier_arrive_at(MbarrierAddress barrier, int rank) {
#if ENGINE_ON_GPU
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n"
      "}"
      :
      : "r"(shared_address(barrier)), "r"(rank)
      : "memory");
#else
  arrive_mbarrier(map_to_rank(barrier.pointer, rank));
#endif
}
// The same without the fence: says that memory was read and may be overwritten, hands nothing over.
ENGINE_DEVICE void mbarrier_release_at(MbarrierAddress barrier, int rank) {
#if ENGINE_ON_GPU
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote];\n"
      "}"
      :
      : "r"(shared_address(barrier)), "r"(rank)
      : "memory");
#else
  arrive_mbarrier(map_to_rank(barrier.pointer, rank));
#endif
}
// Arrives once, and the phase also waits for `bytes` bytes of copies: all that will be loaded with
// this barrier in this phase, bytes outside a tensor (zeros) included. At most 2^20 - 1.
ENGINE_DEVICE void mbarrier_arrive_expect(MbarrierAddress barrier, int bytes) {
#if ENGINE_ON_GPU
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
               :
               : "r"(shared_address(barrier)), "r"(bytes)
               : "memory");
#else
  arrive_mbarrier(barrier.pointer, bytes);
#endif
}
// The same without the arrival.
ENGINE_DEVICE void mbarrier_expect(MbarrierAddress barrier, int bytes) {
#if ENGINE_ON_GPU
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;"
               :
               : "r"(shared_address(barrier)), "r"(bytes)
               : "memory");
#else
  expect_mbarrier(barrier.pointer, bytes);
#endif
}
// Waits until the phase of this parity is complete. What arrived with it can then be read.
ENGINE_DEVICE void mbarrier_wait(MbarrierAddress barrier, uint32_t parity) {
#if ENGINE_ON_GPU
  asm volatile(
      "{\n"
      ".reg .pred complete;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 complete, [%0], %1;\n"
      "@!complete bra again;\n"
      "}"
      :
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
#else
  wait_mbarrier(barrier.pointer, parity);
#endif
}
// As mbarrier_wait() for mbarrier_arrive_at() of other blocks: what they wrote can then be read.
ENGINE_DEVICE void mbarrier_wait_cluster(MbarrierAddress barrier, uint32_t parity) {
#if ENGINE_ON_GPU
  asm volatile(
      "{\n"
      ".reg .pred complete;\n"
      "again:\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 complete, [%0], %1;\n"
      "@!complete bra again;\n"
      "}"
      :
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
#else
  wait_mbarrier(barrier.pointer, parity);
#endif
}

// A place in a ring of `slots` buffers and the parity of the round.
template <int slots>
struct RingPosition {
  int slot = 0;
  uint32_t parity = 0;

  ENGINE_DEVICE void advance() {
    if (++slot == slots) {
      slot = 0;
      parity ^= 1;
    }
  }
};

}  // namespace engine::kernels::ENGINE_GPU
