// Both operations are bound by memory. Bytes per parameter:
//   global_norm   4 read
//   adamw        16 read (master, gradient, m, v) + 16 written (the same, gradient as zero);
//                12 written when gradients are kept; 2 more written for a bf16 copy. Without a
//                master 14 and 14
//
// This file is compiled without fused operations: the contract has every product rounded.
#include "kernels/api/optimizer.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/philox.h"

namespace engine::kernels::cpu {
namespace {

// Elements of one piece. Pieces start anew with every segment, so that vectors stay aligned with
// the segment's memory, and no piece mixes two tensors.
constexpr int64_t kPiece = 1 << 15;

int64_t pieces_of(int64_t count) {
  return (count + kPiece - 1) / kPiece;
}

// Calls body(piece, segment, begin, end) for all pieces of all segments, in one parallel region.
template <typename Body>
void for_all_pieces(const TensorSegment* segments, int num_segments, const Body& body) {
  std::vector<int64_t> first_piece(static_cast<size_t>(num_segments) + 1, 0);
  for (int s = 0; s < num_segments; ++s) {
    first_piece[s + 1] = first_piece[s] + pieces_of(segments[s].count);
  }
  parallel_for(first_piece.back(), [&](int64_t piece) {
    const auto after = std::upper_bound(first_piece.begin(), first_piece.end(), piece);
    const TensorSegment& segment = segments[after - first_piece.begin() - 1];
    const int64_t begin = (piece - *(after - 1)) * kPiece;
    body(piece, segment, begin, std::min(begin + kPiece, segment.count));
  });
}

using F32x8 = float __attribute__((vector_size(32)));
using F64x8 = double __attribute__((vector_size(64)));

double sum_of_squares(const float* x, int64_t count) {
  F64x8 sums[4] = {};
  int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    for (int k = 0; k < 4; ++k) {
      F32x8 v;
      std::memcpy(&v, x + i + 8 * k, sizeof v);
      const F64x8 wide = __builtin_convertvector(v, F64x8);
      sums[k] += wide * wide;
    }
  }
  const F64x8 total = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  double sum = 0.0;
  for (int k = 0; k < 8; ++k) sum += total[k];
  for (; i < count; ++i) sum += static_cast<double>(x[i]) * x[i];
  return sum;
}

// Constants of one step, computed in fp64.
struct Step {
  float beta1, one_minus_beta1, beta2, one_minus_beta2;
  float step_size;       // lr / (1 - β1ᵗ)
  float inverse_scale2;  // 1 / sqrt(1 - β2ᵗ)
  float eps, grad_scale;
  uint64_t rounding_key;
};

// One vector of parameters. Fields of the moments are updated in memory.
template <typename Lanes>
ENGINE_INLINE F32x16 updated(F32x16 p, const TensorSegment& tensor, int64_t i, const Step& step,
                             float decay, bool zero_grad, Lanes lanes) {
  const F32x16 g = load(tensor.grad + i, lanes) * step.grad_scale;
  const F32x16 m = step.beta1 * load(tensor.m + i, lanes) + step.one_minus_beta1 * g;
  const F32x16 v = step.beta2 * load(tensor.v + i, lanes) + step.one_minus_beta2 * g * g;
  const F32x16 denominator = square_root(v) * step.inverse_scale2 + step.eps;
  store(tensor.m + i, m, lanes);
  store(tensor.v + i, v, lanes);
  if (zero_grad) store(tensor.grad + i, splat(0.0f), lanes);
  return p * decay - step.step_size * (m / denominator);
}

template <bool write_value>
void update(const TensorSegment& tensor, int64_t begin, int64_t end, const Step& step, float decay,
            bool zero_grad) {
  for_vectors(end - begin, [&](int64_t k, auto lanes) {
    const int64_t i = begin + k;
    const F32x16 p =
        updated(load(tensor.master + i, lanes), tensor, i, step, decay, zero_grad, lanes);
    store(tensor.master + i, p, lanes);
    if (write_value) store(tensor.value_bf16 + i, p, lanes);
  });
}

// As round_stochastically of the contract; `random` below 65536.
ENGINE_INLINE U16x16 round_stochastically(F32x16 x, U32x16 random) {
  const U32x16 bits = float_to_bits(x);
  const U32x16 quiet_nan = (bits >> 16) | 0x40u;
  return narrow((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : (bits + random) >> 16);
}
ENGINE_INLINE void store_bits(BFloat16* p, U16x16 bits, AllLanes) {
  std::memcpy(p, &bits, sizeof bits);
}
ENGINE_INLINE void store_bits(BFloat16* p, U16x16 bits, FirstLanes lanes) {
  std::memcpy(p, &bits, static_cast<size_t>(lanes.count) * sizeof(BFloat16));
}

// Without a master. A piece begins where a block of random numbers does.
void update_rounding(const TensorSegment& tensor, int64_t begin, int64_t end, const Step& step,
                     float decay, bool zero_grad) {
  static_assert(kPiece % kPhiloxBlock == 0);
  require(tensor.first_index % kPhiloxBlock == 0, "optimizer: first_index, not a multiple of 64");
  PhiloxWords words{};
  for_vectors(end - begin, [&](int64_t k, auto lanes) {
    const int64_t i = begin + k;
    if (k % kPhiloxBlock == 0) {
      words = philox_words(step.rounding_key, static_cast<uint64_t>(tensor.first_index + i) / 4);
    }
    const F32x16 p =
        updated(load(tensor.value_bf16 + i, lanes), tensor, i, step, decay, zero_grad, lanes);
    const U32x16 random = words.vector[k % kPhiloxBlock / kLanes] >> 16;
    store_bits(tensor.value_bf16 + i, round_stochastically(p, random), lanes);
  });
}

}  // namespace

size_t global_norm_workspace(int64_t total_count, int num_segments) {
  // every segment may end in a piece of its own
  return static_cast<size_t>(total_count / kPiece + num_segments) * sizeof(double);
}

void global_norm(Stream, const GlobalNorm& p) {
  double* const parts = static_cast<double*>(p.workspace);
  for_all_pieces(p.segments, p.num_segments,
                 [&](int64_t piece, const TensorSegment& segment, int64_t begin, int64_t end) {
                   parts[piece] = sum_of_squares(segment.grad + begin, end - begin);
                 });
  int64_t count = 0;
  for (int s = 0; s < p.num_segments; ++s) count += pieces_of(p.segments[s].count);
  double sum = 0.0;
  for (int64_t piece = 0; piece < count; ++piece) sum += parts[piece];
  const double norm = std::sqrt(sum);
  const double coefficient = p.max_norm / (norm + 1e-6);
  p.out[0] = static_cast<float>(norm);
  // written so that a NaN norm gives a NaN coefficient
  p.out[1] = p.max_norm <= 0 || coefficient >= 1.0 ? 1.0f : static_cast<float>(coefficient);
  if (p.stop && !std::isfinite(p.out[0])) *p.stop = 1.0f;
}

void flag_nonfinite(Stream, const FlagNonfinite& p) {
  if (!std::all_of(p.x, p.x + p.count, [](float x) { return std::isfinite(x); })) *p.flag = 1.0f;
}

void adamw(Stream, const AdamW& p) {
  require(p.step >= 1, "adamw: steps count from 1");
  const double correction1 = 1.0 - std::pow(p.beta1, p.step);
  const double correction2 = 1.0 - std::pow(p.beta2, p.step);
  const Step step = {
      .beta1 = static_cast<float>(p.beta1),
      .one_minus_beta1 = static_cast<float>(1.0 - p.beta1),
      .beta2 = static_cast<float>(p.beta2),
      .one_minus_beta2 = static_cast<float>(1.0 - p.beta2),
      .step_size = static_cast<float>(p.lr / correction1),
      .inverse_scale2 = static_cast<float>(1.0 / std::sqrt(correction2)),
      .eps = static_cast<float>(p.eps),
      .grad_scale = p.grad_scale != nullptr ? *p.grad_scale : 1.0f,
      .rounding_key = rounding_key(p.rounding_seed, p.step),
  };
  const bool masters = has_masters(p);
  if (p.stop && *p.stop != 0.0f) {
    if (!p.zero_grad) return;
    return for_all_pieces(p.segments, p.num_segments,
                          [&](int64_t, const TensorSegment& segment, int64_t begin, int64_t end) {
                            std::fill(segment.grad + begin, segment.grad + end, 0.0f);
                          });
  }
  for_all_pieces(p.segments, p.num_segments,
                 [&](int64_t, const TensorSegment& segment, int64_t begin, int64_t end) {
                   const float decay = static_cast<float>(1.0 - p.lr * segment.weight_decay);
                   if (!masters) {
                     update_rounding(segment, begin, end, step, decay, p.zero_grad);
                   } else if (segment.value_bf16 != nullptr) {
                     update<true>(segment, begin, end, step, decay, p.zero_grad);
                   } else {
                     update<false>(segment, begin, end, step, decay, p.zero_grad);
                   }
                 });
}

}  // namespace engine::kernels::cpu
