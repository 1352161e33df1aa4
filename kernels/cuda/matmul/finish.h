// Epilogues (kernels/api/matmul.h), four neighbouring columns of a row at a time.
//
// The sums of a tile pass through shared memory on their way out, and come back row by row, so that
// what an epilogue reads and writes beside them is whole sectors. Loads are started one turn
// ahead, and their lines are asked into L2 before the product is computed: a tile of 128 x 128
// waits for L2 a few times and never for memory.
//
// Bytes that they save, each a pass over memory: add 6 of 8 per element of D in bf16 (P written and
// read, and the residual once less by the norm that follows); activation 2 (gated 4) per element of
// D, the input that is not read again, and its gradient 4: P neither written nor read.
#pragma once

#include "kernels/cuda/activate.h"
#include "kernels/cuda/device/warp.h"
#include "kernels/cuda/matmul/problem.h"

namespace engine::kernels::ENGINE_GPU {

// Four columns of a row of the product. Those from `left` on do not exist.
struct FourColumns {
  int row, column, left;
};

// What an epilogue reads beside the sums: the residual, or x (and up, when gated).
struct FinishInputs {
  float x[4], up[4];
};

// Elements of x in a row.
ENGINE_DEVICE constexpr int64_t input_stride(const MatmulProblem& p) {
  return p.finish.kind == MatmulFinish::Kind::activation_gradient && p.finish.gated
             ? 2 * int64_t{p.n}
             : p.n;
}

template <typename T>
ENGINE_DEVICE FinishInputs read_inputs(const MatmulProblem& p, const FourColumns& at) {
  using Kind = MatmulFinish::Kind;
  const MatmulFinish& f = p.finish;
  FinishInputs in{};
  if (at.left <= 0) return in;
  if (f.kind == Kind::add) {
    const int64_t offset = int64_t{at.row} * p.n + at.column;
    if (f.wide) {
      load_four(in.x, static_cast<const float*>(f.residual) + offset, at.left, f.vectors);
    } else {
      load_four(in.x, static_cast<const T*>(f.residual) + offset, at.left, f.vectors);
    }
  } else if (f.kind == Kind::activation_gradient) {
    const T* const from = static_cast<const T*>(f.x) + at.row * input_stride(p) + at.column;
    load_four(in.x, from, at.left, f.vectors);
    if (f.gated) load_four(in.up, from + p.n, at.left, f.vectors);
  }
  return in;
}

// Asks for the lines that a tile's read_inputs will touch. All threads of `threads` take part.
template <typename T>
ENGINE_DEVICE void prefetch_inputs(const MatmulProblem& p, const FourColumns& tile, int rows,
                                   int columns, int thread, int threads) {
  using Kind = MatmulFinish::Kind;
  const MatmulFinish& f = p.finish;
  if (f.kind != Kind::add && f.kind != Kind::activation_gradient) return;
  const bool wide = f.kind == Kind::add && f.wide;
  const int size = wide ? 4 : static_cast<int>(sizeof(T)), line = 128 / size;
  const int halves = f.kind == Kind::activation_gradient && f.gated ? 2 : 1;
  const auto* const base =
      static_cast<const uint8_t*>(f.kind == Kind::add ? f.residual : static_cast<const void*>(f.x));
  const int lines = ceil_div(columns, line) * halves;
  for (int i = thread; i < rows * lines; i += threads) {
    const int row = tile.row + i / lines, half = i % lines % halves;
    const int column = tile.column + i % lines / halves * line;
    if (row >= p.m || column >= p.n) continue;
    prefetch_l2(base + (row * input_stride(p) + half * p.n + column) * size);
  }
}

// act and act' of four values.
template <typename T>
ENGINE_DEVICE void activate_four(Activation kind, const float (&x)[4], float (&value)[4],
                                 float (&slope)[4]) {
  switch (kind) {
    case Activation::gelu_erf:
#pragma unroll
      for (int e = 0; e < 4; ++e) value[e] = activate<Activation::gelu_erf, T>(x[e], slope[e]);
      break;
    case Activation::gelu_tanh:
#pragma unroll
      for (int e = 0; e < 4; ++e) value[e] = activate<Activation::gelu_tanh, T>(x[e], slope[e]);
      break;
    case Activation::silu:
#pragma unroll
      for (int e = 0; e < 4; ++e) value[e] = activate<Activation::silu, T>(x[e], slope[e]);
      break;
    case Activation::relu:
#pragma unroll
      for (int e = 0; e < 4; ++e) value[e] = activate<Activation::relu, T>(x[e], slope[e]);
      break;
    case Activation::tanh:
#pragma unroll
      for (int e = 0; e < 4; ++e) value[e] = activate<Activation::tanh, T>(x[e], slope[e]);
      break;
  }
}

// The sums of four columns, bias included, to D. Epilogues but the paired one and softmax.
template <typename T>
ENGINE_DEVICE void finish_four(const MatmulProblem& p, const FourColumns& at,
                               const FinishInputs& in, const float (&sum)[4]) {
  using Kind = MatmulFinish::Kind;
  const MatmulFinish& f = p.finish;
  if (at.left <= 0) return;
  T* const d = static_cast<T*>(p.d) + at.row * p.ldd + at.column;
  float product[4], out[4], slope[4];
#pragma unroll
  for (int e = 0; e < 4; ++e) product[e] = rounded_to<T>(sum[e]);
  if (f.kind == Kind::add) {
#pragma unroll
    for (int e = 0; e < 4; ++e) out[e] = in.x[e] + product[e];
    if (f.wide) {
      store_four(static_cast<float*>(p.d) + at.row * p.ldd + at.column, out, at.left, p.vectors_d);
      return;
    }
  } else if (f.kind == Kind::activation) {
    if (f.x) {
      store_four(static_cast<T*>(f.x) + at.row * input_stride(p) + at.column, product, at.left,
                 f.vectors);
    }
    activate_four<T>(f.activation, product, out, slope);
  } else if (f.kind == Kind::activation_gradient) {
    float value[4];
    activate_four<T>(f.activation, in.x, value, slope);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      out[e] = (f.gated ? product[e] * in.up[e] : product[e]) * slope[e];
      value[e] *= product[e];
    }
    if (f.gated) store_four(d + p.n, value, at.left, f.vectors);
  } else {
#pragma unroll
    for (int e = 0; e < 4; ++e) out[e] = product[e];
  }
  store_four(d, out, at.left, p.vectors_d);
}

// A gated activation: sums of four columns of the gate, and of those of up. at.column is the
// gate's.
template <typename T>
ENGINE_DEVICE void finish_pairs(const MatmulProblem& p, const FourColumns& at,
                                const float (&gate)[4], const float (&up)[4]) {
  const MatmulFinish& f = p.finish;
  if (at.left <= 0) return;
  float product[4], factor[4], out[4], slope[4];
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    product[e] = rounded_to<T>(gate[e]);
    factor[e] = rounded_to<T>(up[e]);
  }
  if (f.x) {
    T* const x = static_cast<T*>(f.x) + int64_t{at.row} * p.n + at.column;
    store_four(x, product, at.left, f.vectors);
    store_four(x + p.n / 2, factor, at.left, f.vectors);
  }
  activate_four<T>(f.activation, product, out, slope);
#pragma unroll
  for (int e = 0; e < 4; ++e) out[e] *= factor[e];
  store_four(static_cast<T*>(p.d) + at.row * p.ldd + at.column, out, at.left, p.vectors_d);
}

// The part of a row's softmax in `count` columns of each of `lanes` neighbouring lanes, which have
// the row's 32 columns together. Columns that do not exist are -infinity. Every lane has the
// result.
template <int lanes, int count>
ENGINE_DEVICE SoftmaxPart softmax_part(const float (&z)[count]) {
  // not -infinity: a part that is all -infinity must not compute inf - inf
  SoftmaxPart part{-3.402823466e38f, 0.0f};
#pragma unroll
  for (int e = 0; e < count; ++e) part.largest = fmaxf(part.largest, z[e]);
#pragma unroll
  for (int mask = 1; mask < lanes; mask *= 2) {
    part.largest = fmaxf(part.largest, shuffle_xor(part.largest, mask));
  }
#pragma unroll
  for (int e = 0; e < count; ++e) part.sum += exp_approx(z[e] - part.largest);
#pragma unroll
  for (int mask = 1; mask < lanes; mask *= 2) part.sum += shuffle_xor(part.sum, mask);
  return part;
}
ENGINE_DEVICE void store_softmax_part(const MatmulProblem& p, int row, int column,
                                      const SoftmaxPart& part) {
  store_vector(reinterpret_cast<float*>(p.finish.parts + row * p.finish.part_stride +
                                        column / kSoftmaxPartColumns),
               Vector<float, 2>{part.largest, part.sum});
}

}  // namespace engine::kernels::ENGINE_GPU
