// Global gradient norm and AdamW, each one call for all tensors of a model.
//
// global_norm: out[0] = sqrt(Σ_i g_i²), summed in fp64 in a fixed order; a NaN or Inf anywhere
// makes it non-finite. out[1] = clip coefficient min(1, max_norm / (out[0] + 1e-6)), 1 when
// max_norm <= 0.
//
// AdamW (Loshchilov & Hutter 2019; torch.optim.AdamW), step t = 1, 2, ...; g' = g · clip:
//   p -= lr · wd · p
//   m  = β1 m + (1-β1) g';   v = β2 v + (1-β2) g'²
//   p -= lr / (1-β1ᵗ) · m / ( sqrt(v) / sqrt(1-β2ᵗ) + eps )
// p is the fp32 master; `value` (bf16 compute copy) is rewritten from it when present.
#pragma once

#include "kernels/api/types.h"

namespace engine::kernels {

struct TensorSegment {
  float* master = nullptr;         // parameters, fp32
  BFloat16* value_bf16 = nullptr;  // compute copy, or null when the master is used directly
  float* grad = nullptr;
  float* m = nullptr;
  float* v = nullptr;
  int64_t count = 0;
  float weight_decay = 0.0f;
};

struct GlobalNorm {
  const TensorSegment* segments = nullptr;  // host memory; grad and count are read
  int num_segments = 0;
  float max_norm = 0.0f;
  float* out = nullptr;       // [2] device memory: norm, clip coefficient
  void* workspace = nullptr;  // global_norm_workspace bytes
};

struct AdamW {
  const TensorSegment* segments = nullptr;  // host memory
  int num_segments = 0;
  double lr = 0, beta1 = 0.9, beta2 = 0.999, eps = 1e-8;  // 1 - β2 of an fp32 β2 is off by 1e-5
  int64_t step = 1;                                       // t, after counting this step
  const float* grad_scale = nullptr;                      // device: clip coefficient; null = 1
  bool zero_grad = true;      // leave the gradients zeroed for the next step
  void* workspace = nullptr;  // adamw_workspace bytes
};

}  // namespace engine::kernels
