// Rotary position embedding, half-split convention (Su et al. 2021; HF Llama).
//
// For a head x = (x1, x2), halves of head_dim, at position p:
//   y1 = x1 cos(p f_i) - x2 sin(p f_i),   y2 = x2 cos(p f_i) + x1 sin(p f_i)
// The backward is the inverse rotation (sin -> -sin). In place.
#pragma once

#include "kernels/api/types.h"

namespace engine::kernels {

struct Rope {
  void* x = nullptr;  // [tokens, num_heads, head_dim], token stride `stride` elements
  int64_t tokens = 0, stride = 0;
  int num_heads = 0, head_dim = 0;
  const int32_t* positions = nullptr;  // [tokens], each < the rows of cos and sin
  const float* cos = nullptr;          // [positions, head_dim / 2]
  const float* sin = nullptr;
  bool inverse = false;
  DType dtype = DType::f32;
};

}  // namespace engine::kernels
