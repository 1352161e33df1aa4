// Softmax cross-entropy, alone and fused with the linear head before it.
//
// For a row with target y != ignore_index:  loss = log Σ_v exp z[v] - z[y]
//   dz[v] = grad_scale · (softmax(z)[v] - [v = y])
// Rows with target == ignore_index (-100) have loss 0, send no gradient and cost nothing: the
// fused operation drops them before its matmuls.
//
// Fused: z = logit_scale · (hidden · weightᵀ), never whole. Rows are taken `chunk_rows` at a time:
// logits of the chunk (compute dtype in, fp32 out), loss, dz in place, then
//   d_hidden = logit_scale · dz · weight,   d_weight += logit_scale · dzᵀ · hidden   (fp32)
// With bf16 compute dz is rounded to bf16 for those two products. Forward and backward are one
// call, because the loss is the root of the graph: grad_scale is known (1 / number of targets).
// The result does not depend on the thread count; it may depend on chunk_rows (order of d_weight).
#pragma once

#include "kernels/api/types.h"

namespace engine::kernels {

inline constexpr int32_t kIgnoreIndex = -100;

struct LinearCrossEntropy {
  int64_t tokens = 0, hidden_size = 0, vocab_size = 0;
  const void* hidden = nullptr;      // [tokens, hidden_size] compute dtype
  const void* weight = nullptr;      // [vocab_size, hidden_size] compute dtype
  const int32_t* targets = nullptr;  // [tokens], kIgnoreIndex or in [0, vocab_size)
  float logit_scale = 1.0f;
  Scalar<float> grad_scale = 1.0f;
  int64_t chunk_rows = 0;     // 0 = linear_cross_entropy_chunk_rows()
  float* losses = nullptr;    // [tokens]
  int32_t* argmax = nullptr;  // [tokens] or null: predicted id (-1 on ignored rows)
  void* d_hidden =
      nullptr;  // [tokens, hidden_size], overwritten, 0 on ignored rows; null = forward only
  float* d_weight = nullptr;  // [vocab_size, hidden_size] accumulated; null = frozen head
  void* workspace = nullptr;  // linear_cross_entropy_workspace bytes
  DType dtype = DType::f32;
  bool allow_tf32 = false;  // of the products (matmul.h), when dtype is f32
};

// Rows per chunk on the CPU: about 256 MiB of fp32 logits, a multiple of 64 (GPUs choose up to 4096
// rows and 1 GiB by themselves: kernels/cuda/cross_entropy.cu). Every chunk reads the weight
// twice and d_weight once, so few large chunks are faster than many small ones.
int64_t linear_cross_entropy_chunk_rows(int64_t tokens, int64_t vocab_size);

struct CrossEntropy {
  int64_t rows = 0, classes = 0;
  float* logits = nullptr;  // [rows, classes] row stride `stride`; becomes dlogits when d_logits
  int64_t stride = 0;
  const int32_t* targets = nullptr;
  Scalar<float> grad_scale = 1.0f;
  float* losses = nullptr;    // [rows]
  int32_t* argmax = nullptr;  // [rows] or null
  bool d_logits = false;      // overwrite logits by their gradient
};

}  // namespace engine::kernels
