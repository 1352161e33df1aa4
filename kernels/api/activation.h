// Pointwise activations and their gated forms.
//
//   gelu_erf   0.5 x (1 + erf(x/√2))
//   gelu_tanh  0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³)))
//   silu       x · sigmoid(x)
//   relu       max(x, 0)
//   tanh       tanh(x)
//   gated      y[t, i] = act(x[t, i]) · x[t, F + i]     (x is [tokens, 2F]: gate, then up)
// Internals are fp32; the result is rounded once.
#pragma once

#include "kernels/api/types.h"

namespace engine::kernels {

enum class Activation : uint8_t { gelu_erf, gelu_tanh, silu, relu, tanh };

struct ActivationForward {
  Activation kind = Activation::gelu_tanh;
  bool gated = false;
  int64_t tokens = 0, width = 0;  // width F of y; x has width F, or 2F when gated
  const void* x = nullptr;
  void* y = nullptr;  // may be x when not gated
  DType dtype = DType::f32;
};

struct ActivationBackward {
  Activation kind = Activation::gelu_tanh;
  bool gated = false;
  int64_t tokens = 0, width = 0;
  const void* x = nullptr;   // input of the forward
  const void* dy = nullptr;  // [tokens, F]
  void* dx = nullptr;        // [tokens, F or 2F]; may be x, or dy when not gated
  DType dtype = DType::f32;
};

}  // namespace engine::kernels
