// What a kernel source needs to be compiled twice: by nvcc for a GPU, and by the host compiler for
// the software GPU (kernels/simt). Every header of this folder has two bodies for each wrapper, the
// instruction and its functional model; kernels themselves never ask which it is.
//
// Rules for kernels, which make both work:
//   * device memory and shared memory are touched only through load() and store() (memory.h), so
//   the
//     software GPU checks and counts every access; registers are plain variables and arrays
//   * warp operations are for all 32 lanes; threads of a block are whole warps
//   * nothing is assumed about the order of lanes or warps between two barriers
//   * started by launch() (launch.h), in namespace engine::kernels::ENGINE_GPU
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/api/types.h"

#if defined(__CUDACC__)
#define ENGINE_ON_GPU 1
#define ENGINE_GPU cuda
#define ENGINE_DEVICE __device__ __forceinline__
#else
#include "kernels/simt/device.h"
#define ENGINE_ON_GPU 0
#define ENGINE_GPU simt
#define ENGINE_DEVICE inline __attribute__((always_inline))
#endif

namespace engine::kernels::ENGINE_GPU {

inline constexpr const char* kDeviceName = ENGINE_ON_GPU ? "cuda" : "simt";
inline constexpr int kWarp = 32;

ENGINE_DEVICE int lane_index() {
  return static_cast<int>(threadIdx.x) % kWarp;  // blocks are one-dimensional
}
ENGINE_DEVICE int warp_index() {
  return static_cast<int>(threadIdx.x) / kWarp;
}

template <typename T>
ENGINE_DEVICE constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}
// a / b, neither negative. Division of 64 bits is some hundred instructions, of 32 bits some
// twenty.
ENGINE_DEVICE int64_t quotient(int64_t a, int64_t b) {
  return ((a | b) >> 32) == 0 ? static_cast<uint32_t>(a) / static_cast<uint32_t>(b) : a / b;
}

}  // namespace engine::kernels::ENGINE_GPU
