// Eight neighbouring elements: what one thread takes at a time in operations bound by memory. 16
// bytes of bf16, or two accesses of 16 bytes of fp32.
//
//   Eight<BFloat16> raw = load_eight(p + i, count - i, whole);
//   float x[8];
//   to_floats(x, raw);
//   store_eight(q + i, x, count - i, whole);
//
// `whole`: all eight exist and the address is aligned to 16. Else elements are accessed one by one:
// the first `valid` of them exist, the others read as zero. Both ways give the same numbers.
#pragma once

#include "kernels/cuda/device/memory.h"

namespace engine::kernels::ENGINE_GPU {

// As they lie in memory: 4 registers of bf16, 8 of fp32.
template <typename T>
struct Eight {
  static constexpr int kParts = 8 / kVectorWidth<T>;
  Vector<T, kVectorWidth<T>> part[kParts];
  ENGINE_DEVICE T& operator[](int i) { return part[i / kVectorWidth<T>][i % kVectorWidth<T>]; }
  ENGINE_DEVICE const T& operator[](int i) const {
    return part[i / kVectorWidth<T>][i % kVectorWidth<T>];
  }
};

namespace detail {
template <bool once, typename T>
ENGINE_DEVICE Eight<T> load_eight(const T* p, int64_t valid, bool whole) {
  Eight<T> result;
  if (whole) {
#pragma unroll
    for (int k = 0; k < Eight<T>::kParts; ++k) {
      constexpr int N = kVectorWidth<T>;
      if constexpr (once) {
        result.part[k] = load_once<N>(p + k * N);
      } else {
        result.part[k] = load_vector<N>(p + k * N);
      }
    }
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j) result[j] = j < valid ? load(p + j) : from_float<T>(0.0f);
  }
  return result;
}
}  // namespace detail

template <typename T>
ENGINE_DEVICE Eight<T> load_eight(const T* p, int64_t valid, bool whole) {
  return detail::load_eight<false>(p, valid, whole);
}
// Past L1: data that no thread of this kernel reads again, and only this thread may overwrite.
template <typename T>
ENGINE_DEVICE Eight<T> load_eight_once(const T* p, int64_t valid, bool whole) {
  return detail::load_eight<true>(p, valid, whole);
}

template <typename T>
ENGINE_DEVICE void to_floats(float (&x)[8], const Eight<T>& raw) {
#pragma unroll
  for (int j = 0; j < 8; ++j) x[j] = to_float(raw[j]);
}
template <typename T>
ENGINE_DEVICE Eight<T> zero_eight() {
  Eight<T> result;
#pragma unroll
  for (int j = 0; j < 8; ++j) result[j] = from_float<T>(0.0f);
  return result;
}

namespace detail {
ENGINE_DEVICE void store_whole(float* p, const float (&x)[8]) {
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    Vector<float, 4> part;
#pragma unroll
    for (int j = 0; j < 4; ++j) part[j] = x[4 * k + j];
    store_vector(p + 4 * k, part);
  }
}
ENGINE_DEVICE void store_whole(BFloat16* p, const float (&x)[8]) {
  Vector<uint32_t, 4> packed;
#pragma unroll
  for (int k = 0; k < 4; ++k) packed[k] = pack_bf16(x[2 * k], x[2 * k + 1]);
  store_vector(reinterpret_cast<uint32_t*>(p), packed);
}
}  // namespace detail

// Rounds to T.
template <typename T>
ENGINE_DEVICE void store_eight(T* p, const float (&x)[8], int64_t valid, bool whole) {
  if (whole) {
    detail::store_whole(p, x);
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      if (j < valid) store(p + j, from_float<T>(x[j]));
    }
  }
}

// Host side. Null pointers are aligned.
template <typename... Pointers>
bool aligned_to_16(const Pointers*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

}  // namespace engine::kernels::ENGINE_GPU
