// Shuffles, votes, reductions and barriers. Warp operations are for all 32 lanes of the warp.
#pragma once

#include "kernels/cuda/device/memory.h"

namespace engine::kernels::ENGINE_GPU {

// --- Barriers ----------------------------------------------------------------------------------

ENGINE_DEVICE void sync_threads() {
#if ENGINE_ON_GPU
  __syncthreads();
#else
  sync_block();
#endif
}
// Orders the memory accesses of a warp's lanes.
ENGINE_DEVICE void sync_warp() {
#if ENGINE_ON_GPU
  __syncwarp();
#else
  gather_warp("__syncwarp()", [](Warp&) {});
#endif
}
// Barrier `id` (1 to 15; 0 is sync_threads) for `threads` threads of the block, a multiple of 32.
ENGINE_DEVICE void sync_named_barrier(int id, int threads) {
#if ENGINE_ON_GPU
  asm volatile("bar.sync %0, %1;" : : "r"(id), "r"(threads) : "memory");
#else
  sync_named(id, threads);
#endif
}
ENGINE_DEVICE void arrive_named_barrier(int id, int threads) {
#if ENGINE_ON_GPU
  asm volatile("bar.arrive %0, %1;" : : "r"(id), "r"(threads) : "memory");
#else
  arrive_named(id, threads);
#endif
}

// --- Shuffles and votes ------------------------------------------------------------------------

// T has 4 bytes (8 take two instructions).
template <typename T>
ENGINE_DEVICE T shuffle(T value, int from_lane) {
#if ENGINE_ON_GPU
  return __shfl_sync(0xffffffffu, value, from_lane);
#else
  return slot_value<T>(exchange("shuffle", value), from_lane & (kWarp - 1));
#endif
}
template <typename T>
ENGINE_DEVICE T shuffle_xor(T value, int mask) {
#if ENGINE_ON_GPU
  return __shfl_xor_sync(0xffffffffu, value, mask);
#else
  return slot_value<T>(exchange("shuffle_xor", value), lane_index() ^ mask);
#endif
}
// The value of lane - delta; lanes below delta keep their own.
template <typename T>
ENGINE_DEVICE T shuffle_up(T value, int delta) {
#if ENGINE_ON_GPU
  return __shfl_up_sync(0xffffffffu, value, delta);
#else
  const int lane = lane_index();
  return slot_value<T>(exchange("shuffle_up", value), lane < delta ? lane : lane - delta);
#endif
}
// Bit l: the predicate of lane l.
ENGINE_DEVICE uint32_t ballot(bool predicate) {
#if ENGINE_ON_GPU
  return __ballot_sync(0xffffffffu, predicate);
#else
  const auto* const slots = exchange("ballot", predicate);
  uint32_t bits = 0;
  for (int lane = 0; lane < kWarp; ++lane) bits |= uint32_t{slot_value<bool>(slots, lane)} << lane;
  return bits;
#endif
}
ENGINE_DEVICE int count_bits(uint32_t bits) {
#if ENGINE_ON_GPU
  return __popc(bits);
#else
  return std::popcount(bits);
#endif
}

// --- Reductions --------------------------------------------------------------------------------
// Butterflies over groups of `Width` neighbouring lanes (a power of two): all lanes of a group get
// the same bits, in an order that is always the same.

template <int Width = kWarp, typename T>
ENGINE_DEVICE T warp_sum(T value) {
#pragma unroll
  for (int mask = Width / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  return value;
}
template <int Width = kWarp>
ENGINE_DEVICE float warp_max(float value) {
#pragma unroll
  for (int mask = Width / 2; mask > 0; mask /= 2) value = fmaxf(value, shuffle_xor(value, mask));
  return value;
}

// Sum over the block, to all threads. `scratch` holds one T per warp; it may be used again at once.
template <typename T>
ENGINE_DEVICE T block_sum(T value, Shared<T> scratch) {
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  value = warp_sum(value);
  if (lane_index() == 0) store(scratch + warp_index(), value);
  sync_threads();
  T sum = T(0);
  for (int w = 0; w < warps; ++w) sum += load(scratch + w);
  sync_threads();
  return sum;
}
ENGINE_DEVICE float block_max(float value, Shared<float> scratch) {
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  value = warp_max(value);
  if (lane_index() == 0) store(scratch + warp_index(), value);
  sync_threads();
  float maximum = load(scratch);
  for (int w = 1; w < warps; ++w) maximum = fmaxf(maximum, load(scratch + w));
  sync_threads();
  return maximum;
}

}  // namespace engine::kernels::ENGINE_GPU
