// Attention as graphs of cuDNN operations that it recognises and replaces by its fused kernels: the
// decomposition of NVIDIA's documentation ("scaled dot product attention"), operation by operation.
#pragma once

#include "kernels/cuda/rivals/cudnn_graph.h"

namespace engine::kernels::cuda::cudnn {

// What decides a graph.
struct AttentionProblem {
  int64_t batch = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  int64_t max_seqlen_q = 0, max_seqlen_k = 0;
  // Elements between tokens.
  int64_t q_stride = 0, k_stride = 0, v_stride = 0;
  int64_t d_q_stride = 0, d_k_stride = 0, d_v_stride = 0;  // of the backward
  float scale = 1.0f;
  bool causal = false;
  int64_t window = 0;
  // All sequences have the greatest length. Otherwise they lie one after the other, and where they
  // start (kOffset*: in elements, int32 [batch + 1]) and how long they are (kSeqlen*: int32
  // [batch]) is data: one plan serves all batches up to these lengths.
  bool even = false;

  auto operator<=>(const AttentionProblem&) const = default;
};

// Data of a plan's run.
enum DataId : int64_t {
  kQ = 1,
  kK,
  kV,
  kOut,
  kLse,  // natural logarithm: [num_heads, tokens] if even, else [tokens, num_heads]
  kDOut,
  kDQ,
  kDK,
  kDV,
  kRowSums,  // of the backward: fp32 [batch, num_heads, max_seqlen_q]
  kDQSums,   // of the backward: fp32 [batch, num_heads, max_seqlen_q, head_dim]
  kSeqlenQ,  // from here on: only if not even
  kSeqlenK,
  kOffsetQ,  // of tokens of q, k, v, ... : cu_seqlens times their stride
  kOffsetK,
  kOffsetV,
  kOffsetOut,
  kOffsetLse,
  kOffsetDQ,
  kOffsetDK,
  kOffsetDV,
};

Plan forward_plan(const AttentionProblem& problem, const Target& target);
Plan backward_plan(const AttentionProblem& problem, const Target& target);

}  // namespace engine::kernels::cuda::cudnn
