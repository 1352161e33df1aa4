// Matrix multiplication, row-major, in all transposes, with the epilogues a transformer needs.
//
//   P[m, n] = op(A)[m, k] · op(B)[k, n] (+ bias[n])
//   D = P (+ D if accumulate), or what the epilogue makes of P
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
// TF32: with allow_tf32 a GPU may round fp32 inputs to 10 bits of mantissa (to nearest, ties away
// from zero) and multiply them on tensor cores; sums stay fp32. The CPU has no such unit and
// computes in fp32, and so does a GPU where rows do not start on 16-byte boundaries.
//
// Epilogues save passes over memory and change no bit: P is rounded to output_dtype, and then
// happens what add, activation_forward or activation_backward would do with P as stored.
//   add                   D = residual + P
//   activation            D = act(P); gated (GeGLU, SwiGLU): n = 2F, B has the columns of the gate,
//                         then those of up, and D[:, i] = act(P[:, i]) · P[:, F + i]
//   activation_gradient   P is the gradient of activation's result, D that of its input x: [m, n],
//                         or gated [m, 2n]: D[:, i] = P · up · act'(gate), D[:, n + i] = P ·
//                         act(gate)
// With an epilogue D, residual and x are dense (ldd = 0), and accumulate is false.
//
// The workspace is for two things. Given matmul_workspace() bytes, a product with few elements and
// a long k may be cut along k, its parts summed in order: same bits whenever it runs on the same
// device. It may be null, but not where an epilogue needs it (devices that run it in steps of its
// own: matmul_workspace() is not 0).
#pragma once

#include "kernels/api/activation.h"
#include "kernels/api/types.h"

namespace engine::kernels {

struct MatmulEpilogue {
  enum class Kind : uint8_t { none, add, activation, activation_gradient };
  Kind kind = Kind::none;
  // add
  const void* residual = nullptr;     // [m, n], not D
  DType residual_dtype = DType::f32;  // of residual and D; output_dtype is what P is rounded to
  // activation and its gradient
  Activation activation = Activation::gelu_tanh;
  bool gated = false;
  // activation: where P goes for the backward, if keep_x. Its gradient: x, which D may overwrite.
  void* x = nullptr;
  bool keep_x = false;
};

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
  bool allow_tf32 = false;          // for fp32 inputs
  MatmulEpilogue epilogue;
  void* workspace = nullptr;  // matmul_workspace() bytes, or null
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
