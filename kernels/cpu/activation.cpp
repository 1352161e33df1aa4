#include <algorithm>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/parallel.h"

namespace engine::kernels::cpu {
namespace {

constexpr int64_t kGrain = 1 << 14;  // elements of one piece

// Each activation: its value, and its value and derivative together.
struct Both {
  F32x16 value, derivative;
};

struct GeluErf {
  static ENGINE_INLINE F32x16 value(F32x16 x) {
    return 0.5f * x * (1.0f + erf(x * 0.70710678118654752f));
  }
  static ENGINE_INLINE Both both(F32x16 x) {
    const F32x16 cdf = 0.5f * (1.0f + erf(x * 0.70710678118654752f));
    const F32x16 density = 0.39894228040143268f * exp(x * x * -0.5f);  // of the normal distribution
    return {x * cdf, cdf + x * density};
  }
};

struct GeluTanh {
  static constexpr float kScale = 0.79788456080286536f;  // √(2/π)
  static constexpr float kCubic = 0.044715f;
  static ENGINE_INLINE F32x16 value(F32x16 x) {
    return 0.5f * x * (1.0f + tanh(kScale * (x + kCubic * x * x * x)));
  }
  static ENGINE_INLINE Both both(F32x16 x) {
    const F32x16 t = tanh(kScale * (x + kCubic * x * x * x));
    const F32x16 half = 0.5f * (1.0f + t);
    const F32x16 slope = kScale * (1.0f + 3.0f * kCubic * x * x);
    return {x * half, half + 0.5f * x * (1.0f - t * t) * slope};
  }
};

struct Silu {
  static ENGINE_INLINE F32x16 value(F32x16 x) { return x * sigmoid(x); }
  static ENGINE_INLINE Both both(F32x16 x) {
    const F32x16 s = sigmoid(x);
    return {x * s, s * (1.0f + x * (1.0f - s))};
  }
};

struct Relu {
  static ENGINE_INLINE F32x16 value(F32x16 x) {
    return x <= 0.0f ? splat(0.0f) : x;  // NaN passes
  }
  static ENGINE_INLINE Both both(F32x16 x) {
    return {value(x), x > 0.0f ? splat(1.0f) : splat(0.0f)};
  }
};

struct Tanh {
  static ENGINE_INLINE F32x16 value(F32x16 x) { return tanh(x); }
  static ENGINE_INLINE Both both(F32x16 x) {
    const F32x16 t = tanh(x);
    return {t, 1.0f - t * t};
  }
};

template <typename Body>
void with_activation(Activation kind, const Body& body) {
  switch (kind) {
    case Activation::gelu_erf:
      return body(GeluErf{});
    case Activation::gelu_tanh:
      return body(GeluTanh{});
    case Activation::silu:
      return body(Silu{});
    case Activation::relu:
      return body(Relu{});
    case Activation::tanh:
      return body(Tanh{});
  }
}

// Rows of one piece, for a gated activation of width F.
int64_t rows_per_piece(int64_t width) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(width, 1));
}

}  // namespace

void activation_forward(Stream, const ActivationForward& p) {
  with_float_type(p.dtype, [&](auto type) {
    with_activation(p.kind, [&](auto activation) {
      using T = decltype(type);
      using Function = decltype(activation);
      const T* const x = static_cast<const T*>(p.x);
      T* const y = static_cast<T*>(p.y);
      if (!p.gated) {
        parallel_for_ranges(p.tokens * p.width, kGrain, [=](int64_t begin, int64_t end) {
          for_vectors(end - begin, [=](int64_t k, auto lanes) {
            store(y + begin + k, Function::value(load(x + begin + k, lanes)), lanes);
          });
        });
        return;
      }
      const int64_t width = p.width;
      parallel_for_ranges(p.tokens, rows_per_piece(width), [=](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          const T* const gate = x + row * 2 * width;
          const T* const up = gate + width;
          T* const out = y + row * width;
          for_vectors(width, [=](int64_t i, auto lanes) {
            store(out + i, Function::value(load(gate + i, lanes)) * load(up + i, lanes), lanes);
          });
        }
      });
    });
  });
}

void activation_backward(Stream, const ActivationBackward& p) {
  with_float_type(p.dtype, [&](auto type) {
    with_activation(p.kind, [&](auto activation) {
      using T = decltype(type);
      using Function = decltype(activation);
      const T* const x = static_cast<const T*>(p.x);
      const T* const dy = static_cast<const T*>(p.dy);
      T* const dx = static_cast<T*>(p.dx);
      if (!p.gated) {
        parallel_for_ranges(p.tokens * p.width, kGrain, [=](int64_t begin, int64_t end) {
          for_vectors(end - begin, [=](int64_t k, auto lanes) {
            const int64_t i = begin + k;
            const F32x16 slope = Function::both(load(x + i, lanes)).derivative;
            store(dx + i, load(dy + i, lanes) * slope, lanes);
          });
        });
        return;
      }
      const int64_t width = p.width;
      parallel_for_ranges(p.tokens, rows_per_piece(width), [=](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          const T* const gate = x + row * 2 * width;
          const T* const up = gate + width;
          const T* const d_out = dy + row * width;
          T* const d_gate = dx + row * 2 * width;
          T* const d_up = d_gate + width;
          for_vectors(width, [=](int64_t i, auto lanes) {
            const Both act = Function::both(load(gate + i, lanes));
            const F32x16 d = load(d_out + i, lanes), u = load(up + i, lanes);
            store(d_gate + i, d * u * act.derivative, lanes);
            store(d_up + i, d * act.value, lanes);
          });
        }
      });
    });
  });
}

}  // namespace engine::kernels::cpu
