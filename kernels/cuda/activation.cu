// Activations and their gated forms; bound by memory.
//
// Bytes per element of y in bf16: forward 4, gated 6; backward 6, gated 10. A thread takes 16 bytes
// of each: eight elements, or four in fp32. Arithmetic keeps pace (activate.h).
#include "kernels/cuda/activate.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device/eight.h"  // aligned_to_16
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/piece.h"

namespace engine::kernels::ENGINE_GPU {
namespace {

constexpr int kThreads = 256;

// Forward and backward, gated or not. Not gated: one row of tokens · width elements.
struct Pointwise {
  const void* x;
  const void* dy;  // backward
  void* out;       // y, or dx
  int64_t rows, width;
  int64_t pieces;  // of 16 bytes, in a row
  bool whole;      // every piece
};

template <Activation kind, bool gated, bool backward, typename T>
__global__ void __launch_bounds__(kThreads) activation_kernel(const Pointwise p) {
  constexpr int N = kVectorWidth<T>;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= p.rows * p.pieces) return;
  const int64_t row = gated ? quotient(index, p.pieces) : 0, piece = index - row * p.pieces;
  const int64_t i = piece * N, valid = p.width - i;
  const int64_t x_at = (gated ? 2 * row * p.width : 0) + i, y_at = row * p.width + i;

  float x[N], up[N] = {}, d[N] = {};
  load_piece_once(x, static_cast<const T*>(p.x) + x_at, valid, p.whole);
  if constexpr (gated) {
    load_piece_once(up, static_cast<const T*>(p.x) + x_at + p.width, valid, p.whole);
  }
  if constexpr (backward) {
    load_piece_once(d, static_cast<const T*>(p.dy) + y_at, valid, p.whole);
  }
  float out[N], d_up[N];
#pragma unroll
  for (int j = 0; j < N; ++j) {
    float slope;
    const float value = activate<kind, T>(x[j], slope);
    if constexpr (backward) {
      out[j] = (gated ? d[j] * up[j] : d[j]) * slope;
      d_up[j] = d[j] * value;
    } else {
      out[j] = gated ? value * up[j] : value;
    }
  }
  T* const to = static_cast<T*>(p.out) + (backward ? x_at : y_at);
  store_piece(to, out, valid, p.whole);
  if constexpr (gated && backward) store_piece(to + p.width, d_up, valid, p.whole);
}

template <Activation kind, bool backward, typename T>
void launch_kind(Stream stream, const Pointwise& p, bool gated) {
  const char* const name = backward ? "activation_backward" : "activation_forward";
  const LaunchConfig config{
      .grid = {static_cast<unsigned>(ceil_div<int64_t>(p.rows * p.pieces, kThreads))},
      .block = {kThreads}};
  if (gated) {
    launch(stream, name, activation_kernel<kind, true, backward, T>, config, p);
  } else {
    launch(stream, name, activation_kernel<kind, false, backward, T>, config, p);
  }
}

template <bool backward, typename T>
void launch_type(Stream stream, const Pointwise& p, Activation kind, bool gated) {
  switch (kind) {
    case Activation::gelu_erf:
      return launch_kind<Activation::gelu_erf, backward, T>(stream, p, gated);
    case Activation::gelu_tanh:
      return launch_kind<Activation::gelu_tanh, backward, T>(stream, p, gated);
    case Activation::silu:
      return launch_kind<Activation::silu, backward, T>(stream, p, gated);
    case Activation::relu:
      return launch_kind<Activation::relu, backward, T>(stream, p, gated);
    case Activation::tanh:
      return launch_kind<Activation::tanh, backward, T>(stream, p, gated);
  }
}

template <bool backward>
void run(Stream stream, Pointwise p, Activation kind, bool gated, DType dtype) {
  require(dtype == DType::f32 || dtype == DType::bf16, "activation: fp32 or bf16 only");
  if (p.rows == 0 || p.width == 0) return;
  // whole rows of a gated form are whole everywhere; one long row may end in a part
  const bool aligned = aligned_to_16(p.x, p.dy, p.out);
  if (!gated) {
    p.width *= p.rows;
    p.rows = 1;
  }
  const auto elements = static_cast<int64_t>(16 / size_of(dtype));  // of a piece
  p.pieces = ceil_div(p.width, elements);
  p.whole = aligned && p.width % elements == 0;
  if (dtype == DType::bf16) {
    launch_type<backward, BFloat16>(stream, p, kind, gated);
  } else {
    launch_type<backward, float>(stream, p, kind, gated);
  }
}

}  // namespace

void activation_forward(Stream stream, const ActivationForward& p) {
  run<false>(stream, {.x = p.x, .out = p.y, .rows = p.tokens, .width = p.width}, p.kind, p.gated,
             p.dtype);
}

void activation_backward(Stream stream, const ActivationBackward& p) {
  run<true>(stream, {.x = p.x, .dy = p.dy, .out = p.dx, .rows = p.tokens, .width = p.width}, p.kind,
            p.gated, p.dtype);
}

}  // namespace engine::kernels::ENGINE_GPU
