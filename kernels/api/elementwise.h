// Small whole-array operations.
#pragma once

#include "kernels/api/types.h"

namespace engine::kernels {

// out[i] = a[i] + b[i], rounded once; out may be a or b.
struct Add {
  const void* a = nullptr;
  const void* b = nullptr;
  void* out = nullptr;
  int64_t count = 0;
  DType a_dtype = DType::f32, b_dtype = DType::f32, out_dtype = DType::f32;
};

// out[i] = scale · x[i], converted (f32 <-> bf16, or a copy) and rounded once; out may be x when
// the types are the same.
struct Cast {
  const void* x = nullptr;
  void* out = nullptr;
  int64_t count = 0;
  float scale = 1.0f;
  DType from = DType::f32, to = DType::f32;
};

// Index of the first NaN or Inf in x, or -1. Used to name the layer and row of a bad value.
struct FindNonfinite {
  const void* x = nullptr;
  int64_t count = 0;
  DType dtype = DType::f32;
  int64_t* index = nullptr;  // host memory; the call waits for the answer
};

}  // namespace engine::kernels
