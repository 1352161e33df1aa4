// Global gradient norm and AdamW, each one call for all tensors of a model.
//
// global_norm: out[0] = sqrt(Σ_i g_i²), summed in fp64 in a fixed order; a NaN or Inf anywhere
// makes it non-finite. out[1] = clip coefficient min(1, max_norm / (out[0] + 1e-6)), 1 when
// max_norm <= 0.
//
// A step can be stopped on the device, so that the host need not know the norm when it queues the
// update: `stop` is a number there, 0 at first. flag_nonfinite sets it to 1 if a value (a loss) is
// NaN or Inf, global_norm if its norm is, and else they leave it as it is. Where it is not 0, adamw
// changes no parameter and no moment; gradients are zeroed all the same.
//
// AdamW (Loshchilov & Hutter 2019; torch.optim.AdamW), step t = 1, 2, ...; g' = g · clip:
//   p -= lr · wd · p
//   m  = β1 m + (1-β1) g';   v = β2 v + (1-β2) g'²
//   p -= lr / (1-β1ᵗ) · m / ( sqrt(v) / sqrt(1-β2ᵗ) + eps )
// p is the fp32 master; `value` (bf16 compute copy) is rewritten from it when present. Every
// product and sum is rounded by itself (nothing is fused), so all devices give the same bits:
//   m = (β1 m) + ((1-β1) g');   v = (β2 v) + (((1-β2) g') g')
//   p = (p (1 - lr wd)) - (step_size (m / ((sqrt(v) scale) + eps)))
//
// Without a master p is the bf16 value itself: p is read from it, updated in fp32 as above, and
// rounded to one of its two bf16 neighbours at random, to each with the probability that makes the
// expectation exact (Croci et al. 2022): rounding to nearest would lose every update below half of
// the last place. The random number of element i of a segment is the upper half of word i mod 4 of
//   philox4x32(rounding_key(seed, t), (first_index + i) / 4)          (dropout.h)
// and p rounds away from zero when that half and the lower half of p's bits carry. Infinities stay,
// NaN is quiet.
#pragma once

#include "kernels/api/types.h"

namespace engine::kernels {

struct TensorSegment {
  float* master = nullptr;         // parameters, fp32; null: value_bf16 is rounded stochastically
  BFloat16* value_bf16 = nullptr;  // compute copy, or null when the master is used directly
  float* grad = nullptr;
  float* m = nullptr;
  float* v = nullptr;
  int64_t count = 0;
  float weight_decay = 0.0f;
  // Where its random numbers begin, without a master: a multiple of 64.
  int64_t first_index = 0;
};

// The segments as a device reads them. They and their addresses must stay as they are for as long
// as the table is used.
struct OptimizerTable {
  const TensorSegment* segments = nullptr;  // host memory
  int num_segments = 0;
  void* table = nullptr;  // optimizer_table_bytes
};

struct FlagNonfinite {
  const float* x = nullptr;
  int64_t count = 0;
  float* flag = nullptr;  // device memory
};

struct GlobalNorm {
  const TensorSegment* segments = nullptr;  // host memory; grad and count are read
  int num_segments = 0;
  const void* table = nullptr;  // made from these segments
  float max_norm = 0.0f;
  float* out = nullptr;       // [2] device memory: norm, clip coefficient
  float* stop = nullptr;      // device memory, or null
  void* workspace = nullptr;  // global_norm_workspace bytes
};

struct AdamW {
  const TensorSegment* segments = nullptr;  // host memory
  int num_segments = 0;
  const void* table = nullptr;                            // made from these segments
  double lr = 0, beta1 = 0.9, beta2 = 0.999, eps = 1e-8;  // 1 - β2 of an fp32 β2 is off by 1e-5
  int64_t step = 1;                                       // t, after counting this step
  const float* grad_scale = nullptr;                      // device: clip coefficient; null = 1
  const float* stop = nullptr;                            // device: no update unless 0; or null
  bool zero_grad = true;       // leave the gradients zeroed for the next step
  uint64_t rounding_seed = 0;  // without masters
};

// Do the segments have masters? All of them or none.
inline bool has_masters(const AdamW& arguments) {
  int with = 0, without = 0;
  for (int s = 0; s < arguments.num_segments; ++s) {
    ++(arguments.segments[s].master ? with : without);
  }
  require(with == 0 || without == 0, "adamw: some parameters have masters, some have none");
  return without == 0;
}

// SplitMix64's mixing: neighbouring steps get unrelated keys.
constexpr uint64_t rounding_key(uint64_t seed, int64_t step) {
  uint64_t z = seed + 0x9e3779b97f4a7c15ull * static_cast<uint64_t>(step);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// One of the two bf16 neighbours of x; `random` uniform in [0, 65535].
constexpr uint16_t round_stochastically(float x, uint32_t random) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + random) >> 16);
}

}  // namespace engine::kernels
