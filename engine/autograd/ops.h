// The differentiable operations models are made of. Each computes forward at once and, when the
// graph records, notes its backward. Shapes: a batch is a flat list of N tokens.
#pragma once

#include <cstdint>

#include "engine/autograd/graph.h"

namespace engine {

// The sequences of a flat token list: cu_seqlens[s] .. cu_seqlens[s+1] are the tokens of s.
struct Sequences {
  Tensor cu_seqlens;  // i32 [count + 1]
  int count = 0;
  int max_length = 0;
  int64_t tokens = 0;
};

// Rows of `table` for `ids` [N], times scale, plus rows of `position_table` for `positions` [N].
// Result [N, hidden] in the residual dtype.
struct EmbeddingInputs {
  Tensor ids;
  Tensor positions;  // with position_table
  Parameter* table = nullptr;
  Parameter* position_table = nullptr;
  float scale = 1.0f;
};
Variable embedding(Graph& graph, const EmbeddingInputs& inputs);

// How a weight lies in memory: HF Linear is [out, in], GPT-2's Conv1D is [in, out].
enum class WeightLayout : uint8_t { out_in, in_out };

// y = x Wᵀ + b: [N, in] -> [N, out] in the compute dtype.
Variable linear(Graph& graph, const Variable& x, Parameter& weight, Parameter* bias,
                WeightLayout layout = WeightLayout::out_in);

// residual + x Wᵀ + b in one kernel: the same bits as add(residual, linear(x)), in the residual's
// dtype. Without a residual it is linear.
Variable linear_add(Graph& graph, const Variable& residual, const Variable& x, Parameter& weight,
                    Parameter* bias, WeightLayout layout = WeightLayout::out_in);

// residual + down(dropout(act(up(x)))), the activation and the residual in the products' kernels:
// the same bits as linear, activation, dropout, linear, add. Without a residual (which dropout of
// the branch needs) only the branch, in the compute dtype. Gated: up has the rows of the gate, then
// those of up. Of what is between the layers the activation's input and what down reads are kept
// for the backward; RecomputePolicy::norms drops the latter. Of ReLU, not gated, only the latter is
// kept. Under that policy x is discarded; it may be the residual too.
struct FeedForward {
  Parameter* up = nullptr;
  Parameter* up_bias = nullptr;
  Parameter* down = nullptr;
  Parameter* down_bias = nullptr;
  WeightLayout layout = WeightLayout::out_in;
  kernels::Activation activation = kernels::Activation::silu;
  bool gated = false;
  float dropout = 0.0f;  // of the activation's result
};
Variable feed_forward(Graph& graph, const Variable& residual, const Variable& x,
                      const FeedForward& block);

// residual' = residual + delta; y = norm(residual'). Without a delta residual' is residual.
struct Normed {
  Variable residual;  // [N, hidden], dtype of the residual that went in
  Variable y;         // [N, hidden] compute dtype
};
struct NormParameters {
  kernels::NormKind kind = kernels::NormKind::rms_llama;
  Parameter* weight = nullptr;
  Parameter* bias = nullptr;
  float eps = 1e-5f;
};
Normed add_norm(Graph& graph, const Variable& residual, const Variable& delta,
                const NormParameters& norm);
// The norm of x alone, of a sublayer's result for instance.
Variable norm(Graph& graph, const Variable& x, const NormParameters& parameters);

// residual + delta, in the residual dtype.
Variable add(Graph& graph, const Variable& residual, const Variable& delta);

// cos and sin of every position's angles, fp32 [positions, head_dim / 2].
struct RopeTable {
  Tensor cos, sin;
};
// Rotates the first `num_heads` heads of each token of x [N, width] in place; x must not be read
// elsewhere. With a fused qkv buffer num_heads = H + K covers q and k.
Variable rope(Graph& graph, const Variable& x, const Tensor& positions, const RopeTable& table,
              int num_heads, int head_dim);

// What is added to the scores of a head by the distance of key and query (T5).
struct DistanceBias {
  Variable values;  // fp32 [H, distances]; the gradients of all layers add up in it
  int offset = 0;   // column of distance 0

  explicit operator bool() const { return static_cast<bool>(values); }
};
// Which row of a table [buckets, H] a distance takes.
struct DistanceBuckets {
  Tensor one_hot;  // fp32 [buckets, distances]: 1 in the row of the distance
  int first = 0;   // distance of column 0
};
// Bias of the distances first .. first + count - 1 out of a trained table.
DistanceBias distance_bias(Graph& graph, Parameter& table, const DistanceBuckets& buckets,
                           int first, int count);

struct AttentionConfig {
  int num_heads = 0, num_kv_heads = 0, head_dim = 0;
  float scale = 1.0f;
  bool causal = true;
  int window = 0;
  float dropout = 0.0f;
  DistanceBias bias = {};  // of all distances that occur, or none
};
// Self-attention of a fused buffer qkv [N, (H + 2K)·D]: q heads, then k heads, then v heads.
// Result [N, H·D].
Variable self_attention(Graph& graph, const Variable& qkv, const AttentionConfig& config,
                        const Sequences& sequences);
// Attention of q [N, H·D] to the keys and values of another list, kv [M, 2K·D]: k heads, then v
// heads. Sequence s of one list belongs to sequence s of the other. Result [N, H·D].
Variable cross_attention(Graph& graph, const Variable& q, const Variable& kv,
                         const AttentionConfig& config, const Sequences& queries,
                         const Sequences& keys);

// RMSNorm over each head of the queries and of the keys of a fused buffer qkv [N, (H + 2K)·D], with
// one weight [D] for all heads of a kind; the values are as they were. Result [N, (H + 2K)·D].
struct HeadNorms {
  NormParameters query, key;
};
Variable norm_heads(Graph& graph, const Variable& qkv, const AttentionConfig& config,
                    const HeadNorms& norms);

// [N, F] -> [N, F], or gated [N, 2F] -> [N, F]. x is consumed: its backward writes the gradient
// over x, so nothing else may read x in a backward.
Variable activation(Graph& graph, const Variable& x, kernels::Activation kind, bool gated);

// Dropout while training; x itself otherwise.
Variable dropout(Graph& graph, const Variable& x, float p);

// Rows `rows` [M] (distinct) of x [N, width]: result [M, width].
Variable gather_rows(Graph& graph, const Variable& x, const Tensor& rows);

// The loss, root of the graph: head and cross-entropy in one, logits never whole. Sends
// grad_scale · d(Σ losses) backward at once when the graph records.
struct CrossEntropyResult {
  Tensor losses;  // fp32 [N], 0 where the target is -100
  Tensor argmax;  // i32 [N] when asked for
};
struct CrossEntropyOptions {
  float logit_scale = 1.0f;
  kernels::Scalar<float> grad_scale = 1.0f;
  bool argmax = false;
};
CrossEntropyResult linear_cross_entropy(Graph& graph, const Variable& hidden, Parameter& head,
                                        const Tensor& targets, const CrossEntropyOptions& options);

// Cross-entropy of few classes: logits [M, classes] in the compute dtype.
CrossEntropyResult cross_entropy(Graph& graph, const Variable& logits, const Tensor& targets,
                                 const CrossEntropyOptions& options);

// Regression, or several labels at once: scores [M, outputs] in the compute dtype against targets
// fp32 [M, outputs], a row without one begins with NaN. Losses fp32 [M]; grad_scale · d(Σ losses)
// goes backward at once when the graph records.
struct ScoreLossOptions {
  kernels::ScoreLossKind kind = kernels::ScoreLossKind::squared_error;
  kernels::Scalar<float> grad_scale = 1.0f;
};
Tensor score_loss(Graph& graph, const Variable& scores, const Tensor& targets,
                  const ScoreLossOptions& options);

// The same numbers in fp32, without history: x itself when it is.
Tensor to_fp32(Graph& graph, const Tensor& x);

// Logits [M, vocab] in fp32, without history: scale times x [M, hidden] times the head.
Tensor logits(Graph& graph, const Variable& hidden, const Parameter& head, float scale = 1.0f);

}  // namespace engine
