// What happens to the sums of a matmul: bias, accumulation, residual, the type of D.
#pragma once

#include "kernels/api/types.h"
#include "kernels/cpu/vector_math.h"

namespace engine::kernels::cpu {

// A matrix of either type that results are written to.
struct Output {
  void* data = nullptr;
  int64_t stride = 0;
  DType dtype = DType::f32;

  // Asks for the cache lines of a tile that will be written soon.
  void prefetch(int64_t i, int64_t j, int64_t rows, int64_t columns) const {
    constexpr int64_t kLine = 64;
    const auto size = static_cast<int64_t>(size_of(dtype));
    const char* at = static_cast<const char*>(data) + (i * stride + j) * size;
    for (int64_t row = 0; row < rows; ++row, at += stride * size) {
      for (int64_t byte = 0; byte < columns * size; byte += kLine) __builtin_prefetch(at + byte, 1);
    }
  }

  float* at_f32(int64_t i, int64_t j) const { return static_cast<float*>(data) + i * stride + j; }
  BFloat16* at_bf16(int64_t i, int64_t j) const {
    return static_cast<BFloat16*>(data) + i * stride + j;
  }
};

// How a product ends: what is added to the sums before they become D.
struct Ending {
  const void* bias = nullptr;
  DType bias_dtype = DType::f32;
  // The residual of MatmulEpilogue: of the dtype of D, added to the product as `product_dtype`.
  const void* residual = nullptr;
  int64_t residual_stride = 0;
  DType product_dtype = DType::f32;

  bool empty() const { return !bias && !residual; }
};

// The part of an Ending that belongs to a tile, in its types.
template <typename D, typename Bias>
struct TileEnding {
  const Bias* bias;
  const D* residual;
  int64_t residual_stride;
  bool round;  // the product to bf16 before the residual is added
};

// D(rows, columns) (+)= acc (+ bias), or residual + (acc + bias) rounded.
template <typename T, typename Bias>
void write_block(const float* acc, int64_t acc_stride, int64_t rows, int64_t columns, T* d,
                 int64_t ldd, const TileEnding<T, Bias>& ending, bool accumulate) {
  const Bias* const bias = ending.bias;
  const T* residual = ending.residual;
  for (int64_t i = 0; i < rows; ++i, acc += acc_stride, d += ldd) {
    for_vectors(columns, [&](int64_t j, auto lanes) {
      F32x16 v = load(acc + j, lanes);
      if (bias) v += load(bias + j, lanes);
      if (accumulate) v += load(d + j, lanes);
      if (residual) {
        if (ending.round) v = round_to<BFloat16>(v);
        v += load(residual + j, lanes);
      }
      store(d + j, v, lanes);
    });
    if (residual) residual += ending.residual_stride;
  }
}

template <typename T>
void write_block(const float* acc, int64_t acc_stride, int64_t rows, int64_t columns, T* d,
                 int64_t ldd, const Ending& ending, int64_t row, int64_t column, bool accumulate) {
  const T* residual = nullptr;
  if (ending.residual) {
    residual = static_cast<const T*>(ending.residual) + row * ending.residual_stride + column;
  }
  const auto write = [&](auto type) {
    using B = decltype(type);
    const auto* bias = static_cast<const B*>(ending.bias);
    write_block(acc, acc_stride, rows, columns, d, ldd,
                TileEnding<T, B>{bias ? bias + column : bias, residual, ending.residual_stride,
                                 ending.product_dtype == DType::bf16},
                accumulate);
  };
  if (ending.bias_dtype == DType::bf16) {
    write(BFloat16{});
  } else {
    write(float{});
  }
}

inline void write_block(const float* acc, int64_t acc_stride, int64_t rows, int64_t columns,
                        const Output& d, int64_t row, int64_t column, const Ending& ending,
                        bool accumulate) {
  if (d.dtype == DType::f32) {
    write_block(acc, acc_stride, rows, columns, d.at_f32(row, column), d.stride, ending, row,
                column, accumulate);
  } else {
    write_block(acc, acc_stride, rows, columns, d.at_bf16(row, column), d.stride, ending, row,
                column, accumulate);
  }
}

}  // namespace engine::kernels::cpu
