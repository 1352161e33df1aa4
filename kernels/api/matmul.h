// Matrix multiplication, row-major, in all transposes, with the epilogues a transformer needs.
//
//   D[m, n] = op(A)[m, k] · op(B)[k, n] (+ bias[n]) (+ D if accumulate)
//
// op(X) is X or its transpose. Leading dimensions are row strides in elements, so a matrix may be
// a column slice of a wider one. With HF's Linear weight W[out, in]:
//   forward          Y = X Wᵀ           transpose_b           (GPT-2's Conv1D [in, out]: none)
//   input gradient   dX = dY W          no transpose
//   weight gradient  dW += dYᵀ X        transpose_a, accumulate into fp32
//
// dtypes: A and B alike, f32 or bf16; D f32 or bf16; sums are in fp32. bias has the dtype of A.
// m, n or k may be 0 (k = 0 gives bias or 0, or leaves D as it is when accumulating).
// The result does not depend on the number of threads.
//
// Given a workspace of matmul_workspace() bytes, a product with few elements and a long k may be
// cut along k, its parts summed in order: same bits whenever it runs on the same device.
#pragma once

#include "kernels/api/types.h"

namespace engine::kernels {

struct Matmul {
  const void* a = nullptr;
  const void* b = nullptr;
  const void* bias = nullptr;  // [n] or null
  void* d = nullptr;
  int64_t m = 0, n = 0, k = 0;
  int64_t lda = 0, ldb = 0, ldd = 0;  // elements between rows as stored; 0 = densely packed
  bool transpose_a = false;           // A is stored [k, m]
  bool transpose_b = false;           // B is stored [n, k]
  bool accumulate = false;
  DType input_dtype = DType::f32;   // of a, b, bias
  DType output_dtype = DType::f32;  // of d
  void* workspace = nullptr;        // matmul_workspace() bytes, or null
};

// Gradient of a bias: out[n] (+)= Σ_m x[m, n]. out is fp32.
struct ColumnSum {
  const void* x = nullptr;  // [rows, columns], row stride ld (0 = columns)
  float* out = nullptr;     // [columns]
  int64_t rows = 0, columns = 0, ld = 0;
  bool accumulate = true;
  DType dtype = DType::f32;
};

}  // namespace engine::kernels
