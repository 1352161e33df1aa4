// Rows between bf16 in memory and fp32 in a scratch row, and a switch from run-time dtypes to C++
// types.
#pragma once

#include "kernels/cpu/vector_math.h"

namespace engine::kernels::cpu {

template <typename From, typename To>
inline void convert_row(const From* from, To* to, int64_t count) {
  for_vectors(count, [&](int64_t i, auto lanes) { store(to + i, load(from + i, lanes), lanes); });
}

inline void to_f32(const BFloat16* from, float* to, int64_t count) {
  convert_row(from, to, count);
}
inline void to_bf16(const float* from, BFloat16* to, int64_t count) {
  convert_row(from, to, count);
}

// Calls body(T{}) with T = float or BFloat16.
template <typename Body>
inline void with_float_type(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::f32:
      return body(float{});
    case DType::bf16:
      return body(BFloat16{});
    default:
      require(false, "the operation takes f32 or bf16");
  }
}

}  // namespace engine::kernels::cpu
