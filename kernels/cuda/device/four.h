// Four neighbouring elements: 16 bytes of fp32, 8 of bf16. Where neighbouring lanes take
// neighbouring fours, an access of a warp is one run of whole sectors in either type. (Eight
// neighbours of fp32 per lane are two accesses, each of which touches every sector and takes half
// of it.)
//
// `vectors`: rows start on boundaries of such an access. Elements from `left` on do not exist; they
// read as 0.
#pragma once

#include "kernels/cuda/device/memory.h"

namespace engine::kernels::ENGINE_GPU {

template <typename T>
ENGINE_DEVICE void load_four(float (&x)[4], const T* from, int left, bool vectors) {
  if (vectors && left >= 4) {
    const auto four = load_vector<4>(from);
#pragma unroll
    for (int j = 0; j < 4; ++j) x[j] = to_float(four[j]);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) x[j] = j < left ? to_float(load(from + j)) : 0.0f;
  }
}
template <typename T>
ENGINE_DEVICE void store_four(T* to, const float (&x)[4], int left, bool vectors) {
  if (vectors && left >= 4) {
    store_vector(to, Vector<T, 4>{from_float<T>(x[0]), from_float<T>(x[1]), from_float<T>(x[2]),
                                  from_float<T>(x[3])});
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j < left) store(to + j, from_float<T>(x[j]));
    }
  }
}

}  // namespace engine::kernels::ENGINE_GPU
