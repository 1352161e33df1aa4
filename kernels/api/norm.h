// LayerNorm and the three RMSNorms, fused with the residual addition before them.
//
//   r = x + delta                                     (stored in residual_out; delta optional)
//   LayerNorm     y = (r - mean) · rstd · w + b,      rstd = 1/sqrt(biased variance + eps)
//   RMSNorm       x̂ = r · rstd,                       rstd = 1/sqrt(mean(r²) + eps)
//     llama       y = rnd(w · rnd(x̂))                 rnd = round to the compute dtype
//     gemma       y = rnd((1 + w) · x̂)                the weight is an offset from 1
//     t5          y = rnd(w · rnd(x̂))                 (as llama here: one compute dtype)
// Statistics are fp32 and computed from r as stored (rounded to the residual dtype).
//
// Backward with gain a (w or 1 + w) and g = dy ∘ a:
//   RMSNorm       dr = rstd · (g - x̂ · mean(g ∘ x̂)),             dw += Σ_rows dy ∘ x̂
//   LayerNorm     dr = rstd · (g - mean(g) - x̂ · mean(g ∘ x̂)),   dw as above, db += Σ_rows dy
//   dx = d_delta = dr + d_residual                     (one result serves both)
//
// Rows lie densely, or are the heads of tokens in wider buffers (QK-norm): with heads > 0 row i of
// x, y, dy and dx starts (i / heads) · token_stride + (i % heads) · hidden elements in, and there
// is neither delta nor residual_out nor d_residual. dx may then be dy.
#pragma once

#include "kernels/api/types.h"

namespace engine::kernels {

enum class NormKind : uint8_t { layer_norm, rms_llama, rms_gemma, rms_t5 };

struct NormForward {
  NormKind kind = NormKind::rms_llama;
  int64_t tokens = 0, hidden = 0;       // rows and their length
  int64_t heads = 0, token_stride = 0;  // rows within wider buffers, see above
  float eps = 1e-5f;
  const void* x = nullptr;       // [tokens, hidden] residual dtype
  const void* delta = nullptr;   // [tokens, hidden] compute dtype, or null
  void* residual_out = nullptr;  // [tokens, hidden] residual dtype; required with delta; may be x
  const void* weight = nullptr;  // [hidden] compute dtype
  const void* bias = nullptr;    // [hidden] compute dtype, LayerNorm only, or null
  void* y = nullptr;             // [tokens, hidden] compute dtype
  float* mean = nullptr;         // [tokens], LayerNorm; null when no backward follows
  float* rstd = nullptr;         // [tokens]; null when no backward follows
  DType compute_dtype = DType::f32;
  DType residual_dtype = DType::f32;
};

struct NormBackward {
  NormKind kind = NormKind::rms_llama;
  int64_t tokens = 0, hidden = 0;       // rows and their length
  int64_t heads = 0, token_stride = 0;  // rows within wider buffers, see above
  const void* dy = nullptr;             // [tokens, hidden] compute dtype
  const void* d_residual = nullptr;     // [tokens, hidden] residual dtype, gradient of residual_out
                                        // from its other use, or null
  const void* x = nullptr;              // r: residual_out of the forward (or x, without a delta)
  const void* weight = nullptr;
  const float* mean = nullptr;
  const float* rstd = nullptr;
  void* dx = nullptr;         // [tokens, hidden] residual dtype; may be d_residual
  float* d_weight = nullptr;  // [hidden] accumulated, or null (frozen)
  float* d_bias = nullptr;    // [hidden] accumulated, or null
  void* workspace = nullptr;  // norm_backward_workspace bytes
  DType compute_dtype = DType::f32;
  DType residual_dtype = DType::f32;
};

}  // namespace engine::kernels
