// One access per thread: N neighbouring elements, 16 bytes or (4 of bf16, beside 4 of fp32) 8.
// Where neighbouring threads take neighbouring pieces, an access of a warp is one run of whole
// sectors.
//
// `whole`: all N exist and the address is aligned to the access. Else elements are accessed one by
// one: the first `valid` of them exist, the others read as zero. Both ways give the same numbers.
#pragma once

#include "kernels/cuda/device/memory.h"

namespace engine::kernels::ENGINE_GPU {

// Past L1: data that no thread of this kernel reads again, and only this thread may overwrite.
template <int N, typename T>
ENGINE_DEVICE void load_piece_once(float (&x)[N], const T* p, int64_t valid, bool whole) {
  if (whole) {
    const auto piece = load_once<N>(p);
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] = to_float(piece[j]);
  } else {
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] = j < valid ? to_float(load(p + j)) : 0.0f;
  }
}

// Rounds to T.
template <int N, typename T>
ENGINE_DEVICE void store_piece(T* p, const float (&x)[N], int64_t valid, bool whole) {
  if (!whole) {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (j < valid) store(p + j, from_float<T>(x[j]));
    }
  } else if constexpr (sizeof(T) == 2) {
    Vector<uint32_t, N / 2> packed;
#pragma unroll
    for (int j = 0; j < N / 2; ++j) packed[j] = pack_bf16(x[2 * j], x[2 * j + 1]);
    store_vector(reinterpret_cast<uint32_t*>(p), packed);
  } else {
    Vector<T, N> piece;
#pragma unroll
    for (int j = 0; j < N; ++j) piece[j] = x[j];
    store_vector(p, piece);
  }
}

}  // namespace engine::kernels::ENGINE_GPU
