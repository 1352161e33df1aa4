// cp.async (sm_80 and newer): copies from device memory to shared memory that run beside the
// thread.
//
//   copy_async_16(tile + i, source + i, inside);   // zeros when not inside
//   copy_async_commit_group();
//   ...
//   copy_async_wait_group<1>();                    // all but the newest group have arrived
//   sync_threads();                                // ... those of the other threads too
#pragma once

#include "kernels/cuda/device/memory.h"

namespace engine::kernels::ENGINE_GPU {

// 16 bytes, both addresses aligned to 16. When `valid` is false nothing is read and zeros arrive.
template <typename T>
ENGINE_DEVICE void copy_async_16(Shared<T> to, const T* from, bool valid = true) {
#if ENGINE_ON_GPU
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(shared_address(to)), "l"(__cvta_generic_to_global(from)), "r"(valid ? 16 : 0)
               : "memory");
#else
  copy_async(to.pointer, from, 16, valid ? 16 : 0);
#endif
}
// 16 bytes of which only the first `bytes` are read; zeros for the others.
template <typename T>
ENGINE_DEVICE void copy_async_16_partial(Shared<T> to, const T* from, int bytes) {
#if ENGINE_ON_GPU
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(shared_address(to)), "l"(__cvta_generic_to_global(from)), "r"(bytes)
               : "memory");
#else
  copy_async(to.pointer, from, 16, bytes);
#endif
}
// 4 bytes, both addresses aligned to 4.
template <typename T>
ENGINE_DEVICE void copy_async_4(Shared<T> to, const T* from, bool valid = true) {
#if ENGINE_ON_GPU
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
               :
               : "r"(shared_address(to)), "l"(__cvta_generic_to_global(from)), "r"(valid ? 4 : 0)
               : "memory");
#else
  copy_async(to.pointer, from, 4, valid ? 4 : 0);
#endif
}
ENGINE_DEVICE void copy_async_commit_group() {
#if ENGINE_ON_GPU
  asm volatile("cp.async.commit_group;" : : : "memory");
#else
  copy_async_commit();
#endif
}
// Waits until at most `in_flight` groups of this thread are unfinished.
template <int in_flight>
ENGINE_DEVICE void copy_async_wait_group() {
#if ENGINE_ON_GPU
  asm volatile("cp.async.wait_group %0;" : : "n"(in_flight) : "memory");
#else
  copy_async_wait(in_flight);
#endif
}

}  // namespace engine::kernels::ENGINE_GPU
