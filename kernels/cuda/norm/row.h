// What both directions of the norms share: how rows are spread over threads, and sums over a row.
//
// Bound by memory. Bytes per element in bf16: forward 4, or 8 with delta (x and delta read,
// residual and y written); backward 6, or 8 with d_residual (dy and x read, dx written). A row
// stays in the registers of its threads between the statistics and the result, so nothing is read
// twice; weights come from L1.
//
// Two kernels each. The first is for rows that fit the registers of a block (8192 elements) and
// whose pieces of eight elements are all whole and aligned: every model of one GPU. Those named
// `any` take rows of any length and alignment, and read a row again from L1 or L2 for every pass.
#pragma once

#include <type_traits>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device/eight.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/math.h"
#include "kernels/cuda/device/warp.h"

namespace engine::kernels::ENGINE_GPU::norm_rows {

inline constexpr int kBlock = 256;       // threads, where rows are short enough
inline constexpr int kMaxThreads = 512;  // of a row: 128 registers each
inline constexpr int kMaxWarps = kMaxThreads / kWarp;
inline constexpr int kPieces = 2;  // of eight elements, per thread

// How rows are spread over threads. Rows of up to 32 threads lie within a warp: a power of two.
struct RowShape {
  int pieces;   // ceil(hidden / 8)
  int threads;  // of a row
  int rows;     // of a block at the same time
  bool resident;

  unsigned block() const { return static_cast<unsigned>(rows * threads); }  // whole warps
};

inline RowShape row_shape(int64_t hidden) {
  RowShape shape{.pieces = static_cast<int>(ceil_div<int64_t>(hidden, 8))};
  if (shape.pieces <= kWarp * kPieces) {
    shape.threads = 1;
    while (shape.threads * kPieces < shape.pieces) shape.threads *= 2;
  } else {
    const int wanted = ceil_div(ceil_div(shape.pieces, kPieces), kWarp) * kWarp;
    shape.threads = wanted < kMaxThreads ? wanted : kMaxThreads;
  }
  shape.rows = shape.threads < kBlock ? kBlock / shape.threads : 1;
  shape.resident = shape.pieces <= shape.threads * kPieces;
  return shape;
}

// Threads of a block that takes rows of any length, one at a time.
inline unsigned any_block(int64_t hidden) {
  const int64_t wanted = ceil_div<int64_t>(ceil_div<int64_t>(hidden, 8), kWarp) * kWarp;
  return static_cast<unsigned>(wanted < kMaxThreads ? wanted : kMaxThreads);
}

// Elements from the start of x, y, dy and dx to row `row`.
template <typename Norm>
ENGINE_DEVICE int64_t row_start(const Norm& norm, int64_t row) {
  if (norm.heads == 0) return row * norm.hidden;
  const int64_t token = quotient(row, norm.heads);
  return token * norm.token_stride + (row - token * norm.heads) * norm.hidden;
}

// Sums over the threads of a row, to all of them. Called by the whole block: its rows go in step.
class RowSum {
 public:
  ENGINE_DEVICE RowSum(SharedMemory& shared, int threads)
      : scratch_(shared.take<float>(4 * kMaxWarps)), threads_(threads) {}

  ENGINE_DEVICE float operator()(float value) {
    float other = 0.0f;
    (*this)(value, other);
    return value;
  }
  ENGINE_DEVICE void operator()(float& a, float& b) {
    for (int mask = (threads_ < kWarp ? threads_ : kWarp) / 2; mask > 0; mask /= 2) {
      a += shuffle_xor(a, mask);
      b += shuffle_xor(b, mask);
    }
    if (threads_ <= kWarp) return;
    // Two halves in turn: one barrier per sum. A warp that is late reads its half before the next
    // barrier, and nobody writes to it before the one after.
    const Shared<float> half = scratch_ + turn_ * 2 * kMaxWarps;
    turn_ ^= 1;
    if (lane_index() == 0) {
      store(half + warp_index(), a);
      store(half + kMaxWarps + warp_index(), b);
    }
    sync_threads();
    const int warps = threads_ / kWarp, first = warp_index() / warps * warps;
    a = b = 0.0f;
    for (int w = first; w < first + warps; ++w) {
      a += load(half + w);
      b += load(half + kMaxWarps + w);
    }
  }

 private:
  Shared<float> scratch_;
  int threads_;
  int turn_ = 0;
};
inline size_t row_sum_shared() {
  return SharedSize().take<float>(4 * kMaxWarps).bytes();
}

struct Kind {
  bool centred, offset_gain, rounds_normalised;
  ENGINE_DEVICE explicit Kind(NormKind kind)
      : centred(kind == NormKind::layer_norm),
        offset_gain(kind == NormKind::rms_gemma),
        rounds_normalised(kind == NormKind::rms_llama || kind == NormKind::rms_t5) {}
  ENGINE_DEVICE float gain(float weight) const { return offset_gain ? 1.0f + weight : weight; }
};

// body(c, r): null pointers that carry the compute and the residual type.
template <typename Body>
void with_types(DType compute, DType residual, const Body& body) {
  if (compute == DType::f32 && residual == DType::f32) {
    body(static_cast<float*>(nullptr), static_cast<float*>(nullptr));
  } else if (compute == DType::bf16 && residual == DType::f32) {
    body(static_cast<BFloat16*>(nullptr), static_cast<float*>(nullptr));
  } else if (compute == DType::bf16 && residual == DType::bf16) {
    body(static_cast<BFloat16*>(nullptr), static_cast<BFloat16*>(nullptr));
  } else {
    require(false,
            "norm: compute and residual must be f32 and f32, bf16 and f32, or bf16 and bf16");
  }
}

}  // namespace engine::kernels::ENGINE_GPU::norm_rows
