// Fused variable-length attention: the score matrix is never stored.
//
// Sequences lie one after the other in flat token lists; cu_seqlens[s] .. cu_seqlens[s+1] are the
// tokens of sequence s. Queries and keys have lists of their own, so cross-attention and decoding
// against a longer cache fit. For query i and key j of one sequence, head h, kv head g = h / (H/K):
//
//   position of i     p = i + (Lk - Lq)            (queries are the last Lq positions of the keys)
//   visible           j < Lk, and j <= p if causal, and j > p - window if window > 0
//   S[i, j]           = scale · <q[i, h], k[j, g]> + distance_bias[h, (j - p) + distance_offset]
//   P                 = softmax_j(S);  lse[i] = log Σ_j exp S[i, j]
//   out[i, h]         = Σ_j dropout(P)[i, j] · v[j, g]
//
// For cross-attention (not causal, no window, no bias) p does not matter.
// A query that sees no key gets out = 0 and lse = -inf, and sends no gradient.
// Scores, softmax and sums are fp32; P is rounded to the compute dtype before P·V.
// FlashAttention-2 (Dao 2023), algorithms 1 and 2: the backward recomputes P from lse.
//
//   D[i]   = <dout[i], out[i]>;   dP = dout · vᵀ (through the dropout mask);  dS = P ∘ (dP - D)
//   dq     = scale · dS · k;      dk = scale · Σ_{heads of g} dSᵀ · q;        dv = Σ Pᵀ · dout
//   d_distance_bias[h, δ] += Σ dS[i, j] over (j - p) = δ - distance_offset
//
// Strides are elements between tokens, so q, k, v may be slices of one fused [tokens, (H+2K)·D]
// buffer; heads lie densely within a token. Deterministic and independent of the thread count.
#pragma once

#include "kernels/api/types.h"

namespace engine::kernels {

struct AttentionShape {
  int num_sequences = 0;
  const int32_t* cu_seqlens_q = nullptr;  // [num_sequences + 1]
  const int32_t* cu_seqlens_k = nullptr;  // [num_sequences + 1]; start of each sequence's keys
  const int32_t* seqused_k = nullptr;     // [num_sequences] or null: keys in use, when fewer than
                                          // cu_seqlens_k spans (a KV cache that is not full)
  int64_t total_q = 0, total_k = 0;
  int max_seqlen_q = 0, max_seqlen_k = 0;
  int num_heads = 0, num_kv_heads = 0, head_dim = 0;
  float scale = 1.0f;
  bool causal = true;
  int window = 0;  // keys a query sees, itself included; 0 = no limit
  // Optional additive bias by distance, fp32 [num_heads, distance_count].
  const float* distance_bias = nullptr;
  int distance_count = 0, distance_offset = 0;
  // Dropout on P from the counter-based generator of dropout.h, index =
  // (h * total_q + query token) * 2^20 + j; 0 = none.
  float dropout_p = 0.0f;
  Scalar<uint64_t> dropout_seed;
  DType dtype = DType::f32;  // of q, k, v, out and their gradients
};

struct AttentionForward {
  AttentionShape shape;
  const void* q = nullptr;  // [total_q, num_heads, head_dim], stride q_stride
  const void* k = nullptr;  // [total_k, num_kv_heads, head_dim]
  const void* v = nullptr;
  int64_t q_stride = 0, k_stride = 0, v_stride = 0;
  void* out = nullptr;        // [total_q, num_heads, head_dim], dense
  float* lse = nullptr;       // [num_heads, total_q] or null
  void* workspace = nullptr;  // attention_forward_workspace bytes
};

struct AttentionBackward {
  AttentionShape shape;
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  int64_t q_stride = 0, k_stride = 0, v_stride = 0;
  const void* out = nullptr;  // as the forward wrote it
  const float* lse = nullptr;
  const void* d_out = nullptr;  // [total_q, num_heads, head_dim], dense
  void* d_q = nullptr;          // strides as q, k, v; overwritten
  void* d_k = nullptr;
  void* d_v = nullptr;
  int64_t d_q_stride = 0, d_k_stride = 0, d_v_stride = 0;
  float* d_distance_bias = nullptr;  // accumulated, or null
  void* workspace = nullptr;         // attention_backward_workspace bytes
};

}  // namespace engine::kernels
