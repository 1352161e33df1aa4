// What happens to the sums of a matmul: bias, accumulation, the type of D.
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

struct Bias {
  const void* data = nullptr;
  DType dtype = DType::f32;
};

// D(rows, columns) (+)= acc (+ bias); T is the type of D, `Bias` of the bias.
template <typename T, typename Bias>
void write_block(const float* acc, int64_t acc_stride, int64_t rows, int64_t columns, T* d,
                 int64_t ldd, const Bias* bias, bool accumulate) {
  for (int64_t i = 0; i < rows; ++i, acc += acc_stride, d += ldd) {
    for_vectors(columns, [&](int64_t j, auto lanes) {
      F32x16 v = load(acc + j, lanes);
      if (bias) v += load(bias + j, lanes);
      if (accumulate) v += load(d + j, lanes);
      store(d + j, v, lanes);
    });
  }
}

template <typename T>
void write_block(const float* acc, int64_t acc_stride, int64_t rows, int64_t columns, T* d,
                 int64_t ldd, const Bias& bias, int64_t column, bool accumulate) {
  if (bias.dtype == DType::bf16) {
    const auto* values = static_cast<const BFloat16*>(bias.data);
    write_block(acc, acc_stride, rows, columns, d, ldd, values ? values + column : values,
                accumulate);
  } else {
    const auto* values = static_cast<const float*>(bias.data);
    write_block(acc, acc_stride, rows, columns, d, ldd, values ? values + column : values,
                accumulate);
  }
}

inline void write_block(const float* acc, int64_t acc_stride, int64_t rows, int64_t columns,
                        const Output& d, int64_t row, int64_t column, const Bias& bias,
                        bool accumulate) {
  if (d.dtype == DType::f32) {
    write_block(acc, acc_stride, rows, columns, d.at_f32(row, column), d.stride, bias, column,
                accumulate);
  } else {
    write_block(acc, acc_stride, rows, columns, d.at_bf16(row, column), d.stride, bias, column,
                accumulate);
  }
}

}  // namespace engine::kernels::cpu
