// Embedding lookup, and gathering rows in general.
//
//   out[t] = rnd(scale · table[ids[t]]) (+ position_table[positions[t]])     rnd: to the output
//   dtype
// Backward, deterministic (each table row sums its tokens in token order; a GPU in pieces of at
// most 32, then the pieces in order):
//   d_table[id] += scale · Σ_{t: ids[t] = id} d_out[t], except for id = padding_id
//   d_position_table[p] += Σ_{t: positions[t] = p} d_out[t]
// Table gradients are fp32. ids must lie in [0, rows): the caller has validated the data.
//
// gather_rows:  out[i] = x[rows[i]];   scatter_rows:  out[rows[i]] = x[i], rows distinct. Without
// rows: out[i] = x[i], a copy between strides.
#pragma once

#include "kernels/api/types.h"

namespace engine::kernels {

struct EmbeddingForward {
  int64_t tokens = 0, hidden = 0;
  const int32_t* ids = nullptr;
  const void* table = nullptr;  // [rows, hidden] table dtype
  float scale = 1.0f;
  const int32_t* positions = nullptr;  // with position_table
  const void* position_table = nullptr;
  void* out = nullptr;  // [tokens, hidden] output dtype
  DType table_dtype = DType::f32;
  DType output_dtype = DType::f32;  // the residual dtype
};

struct EmbeddingBackward {
  int64_t tokens = 0, hidden = 0;
  int64_t rows = 0, position_rows = 0;
  const int32_t* ids = nullptr;
  const int32_t* positions = nullptr;
  const void* d_out = nullptr;        // [tokens, hidden] output dtype
  float* d_table = nullptr;           // [rows, hidden] or null
  float* d_position_table = nullptr;  // or null
  float scale = 1.0f;
  int64_t padding_id = -1;    // its row gets no gradient
  void* workspace = nullptr;  // embedding_backward_workspace bytes
  DType output_dtype = DType::f32;
};

struct GatherRows {
  int64_t count = 0, width = 0;
  const int32_t* rows = nullptr;  // [count], or null
  const void* x = nullptr;
  void* out = nullptr;
  int64_t x_stride = 0, out_stride = 0;  // elements between rows; 0 = width
  DType dtype = DType::f32;
};

}  // namespace engine::kernels
