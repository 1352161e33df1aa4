// A product with an epilogue (matmul.h) out of a plain product and the operation that the epilogue
// stands for: for the CPU, for libraries whose products end otherwise, and for tests.
#pragma once

#include "kernels/api/operations.h"

namespace engine::kernels {

// Columns of D.
inline int64_t matmul_output_columns(const Matmul& p) {
  using Kind = MatmulEpilogue::Kind;
  if (!p.epilogue.gated) return p.n;
  if (p.epilogue.kind == Kind::activation) return p.n / 2;
  return p.epilogue.kind == Kind::activation_gradient ? 2 * p.n : p.n;
}

// What every device refuses. Bugs of the caller.
inline void check_matmul(const Matmul& p) {
  using Kind = MatmulEpilogue::Kind;
  require(p.m >= 0 && p.n >= 0 && p.k >= 0, "matmul: negative size");
  require(p.input_dtype == DType::f32 || p.input_dtype == DType::bf16,
          "matmul: inputs must be f32 or bf16");
  require(p.output_dtype == DType::f32 || p.output_dtype == DType::bf16,
          "matmul: the output must be f32 or bf16");
  const int64_t a_width = p.transpose_a ? p.m : p.k, b_width = p.transpose_b ? p.k : p.n;
  const int64_t d_width = matmul_output_columns(p);
  require(
      (!p.lda || p.lda >= a_width) && (!p.ldb || p.ldb >= b_width) && (!p.ldd || p.ldd >= d_width),
      "matmul: a leading dimension is smaller than the row");
  const MatmulEpilogue& e = p.epilogue;
  if (e.kind == Kind::none) return;
  require(!p.accumulate && (!p.ldd || p.ldd == d_width),
          "matmul: with an epilogue D is dense and not accumulated into");
  require(p.input_dtype == p.output_dtype, "matmul: an epilogue takes P in the dtype of A");
  if (e.kind == Kind::add) {
    require(e.residual_dtype == DType::f32 || e.residual_dtype == p.output_dtype,
            "matmul: the residual must be f32 or of the dtype of P");
  }
  require(e.kind != Kind::activation || !e.gated || p.n % 2 == 0,
          "matmul: a gated activation needs an even number of columns");
}

// Room for P where it has no other place: an activation works in D, unless it is gated.
inline size_t matmul_steps_workspace(const Matmul& p) {
  using Kind = MatmulEpilogue::Kind;
  const MatmulEpilogue& e = p.epilogue;
  if (e.kind == Kind::none || (e.kind == Kind::activation && (e.keep_x || !e.gated))) return 0;
  return static_cast<size_t>(p.m * p.n) * size_of(p.output_dtype);
}

// `product(stream, plain)` computes a Matmul without an epilogue.
template <typename Product>
void matmul_steps(Stream stream, const Operations& ops, const Matmul& p, const Product& product) {
  using Kind = MatmulEpilogue::Kind;
  const MatmulEpilogue& e = p.epilogue;
  Matmul plain = p;
  plain.epilogue = {};
  plain.workspace = nullptr;
  plain.ldd = 0;
  if (e.kind == Kind::none) return product(stream, p);
  plain.d = p.workspace;
  if (e.kind == Kind::activation && e.keep_x) {
    plain.d = e.x;
  } else if (e.kind == Kind::activation && !e.gated) {
    plain.d = p.d;
  }
  require(plain.d || p.m * p.n == 0, "matmul: this epilogue needs its workspace");
  product(stream, plain);
  switch (e.kind) {
    case Kind::none:
      break;
    case Kind::add:
      ops.add(stream, {.a = e.residual,
                       .b = plain.d,
                       .out = p.d,
                       .count = p.m * p.n,
                       .a_dtype = e.residual_dtype,
                       .b_dtype = p.output_dtype,
                       .out_dtype = e.residual_dtype});
      break;
    case Kind::activation:
      ops.activation_forward(stream, {.kind = e.activation,
                                      .gated = e.gated,
                                      .tokens = p.m,
                                      .width = matmul_output_columns(p),
                                      .x = plain.d,
                                      .y = p.d,
                                      .dtype = p.output_dtype});
      break;
    case Kind::activation_gradient:
      ops.activation_backward(stream, {.kind = e.activation,
                                       .gated = e.gated,
                                       .tokens = p.m,
                                       .width = p.n,
                                       .x = e.x,
                                       .dy = plain.d,
                                       .dx = p.d,
                                       .dtype = p.output_dtype});
      break;
  }
}

}  // namespace engine::kernels
