#include "kernels/cuda/rivals/cudnn_attention_graph.h"

#include <limits>

namespace engine::kernels::cuda::cudnn {
namespace {

constexpr cudnnDataType_t kBf16 = CUDNN_DATA_BFLOAT16, kInt = CUDNN_DATA_INT32,
                          kBool = CUDNN_DATA_BOOLEAN;

// What both directions have in common.
class AttentionGraph {
 public:
  explicit AttentionGraph(const AttentionProblem& problem) : p_(problem) {
    if (p_.even) return;
    const auto one_each = [&](DataId id, int64_t count) {
      return graph_.tensor(
          {.id = id, .size = {count, 1, 1, 1}, .stride = {1, 1, 1, 1}, .dtype = kInt});
    };
    seqlen_q_ = one_each(kSeqlenQ, p_.batch);
    seqlen_k_ = one_each(kSeqlenK, p_.batch);
  }

  Plan forward(const Target& target) {
    const Tensor q = heads(kQ, kOffsetQ, p_.num_heads, p_.max_seqlen_q, p_.q_stride);
    const Tensor k = transposed(kK, kOffsetK, p_.k_stride);
    const Tensor v = heads(kV, kOffsetV, p_.num_kv_heads, p_.max_seqlen_k, p_.v_stride);
    const Tensor out = heads(kOut, kOffsetOut, p_.num_heads, p_.max_seqlen_q, dense());
    Tensor s = scores(q, k);
    s = mask_padding(s);
    s = mask_band(s);
    // softmax
    const Tensor maximum = graph_.reduce(CUDNN_REDUCE_TENSOR_MAX, s, rows());
    const Tensor less = graph_.pointwise(CUDNN_POINTWISE_SUB, {.x = s, .b = maximum});
    const Tensor exponentials = graph_.pointwise(CUDNN_POINTWISE_EXP, {.x = less});
    const Tensor sum = graph_.reduce(CUDNN_REDUCE_TENSOR_ADD, exponentials, rows());
    const Tensor logarithm = graph_.pointwise(CUDNN_POINTWISE_LOG, {.x = sum});
    graph_.pointwise(CUDNN_POINTWISE_ADD, {.x = maximum, .b = logarithm, .y = lse()});
    const Tensor p =
        graph_.pointwise(CUDNN_POINTWISE_DIV, {.x = exponentials, .b = sum, .result = kBf16});
    graph_.matmul({.a = p, .b = v, .c = out, .m = seqlen_q_, .k = seqlen_k_});
    return graph_.compile(target);
  }

  Plan backward(const Target& target) {
    const Tensor q = heads(kQ, kOffsetQ, p_.num_heads, p_.max_seqlen_q, p_.q_stride);
    const Tensor k = transposed(kK, kOffsetK, p_.k_stride);
    const Tensor v = transposed(kV, kOffsetV, p_.v_stride);
    const Tensor out = heads(kOut, kOffsetOut, p_.num_heads, p_.max_seqlen_q, dense());
    const Tensor d_out = heads(kDOut, kOffsetOut, p_.num_heads, p_.max_seqlen_q, dense());
    const Tensor d_q = heads(kDQ, kOffsetDQ, p_.num_heads, p_.max_seqlen_q, p_.d_q_stride);
    const Tensor d_k = heads(kDK, kOffsetDK, p_.num_kv_heads, p_.max_seqlen_k, p_.d_k_stride);
    const Tensor d_v = heads(kDV, kOffsetDV, p_.num_kv_heads, p_.max_seqlen_k, p_.d_v_stride);
    const Tensor scale = graph_.number(p_.scale);

    // D = sum of d_out · out
    const int64_t h = p_.num_heads, sq = p_.max_seqlen_q, d = p_.head_dim;
    const Tensor products =
        graph_.tensor({.size = {p_.batch, h, sq, d}, .stride = {h * sq * d, sq * d, h * d, 1}});
    graph_.pointwise(CUDNN_POINTWISE_MUL, {.x = d_out, .b = out, .y = products});
    const Tensor sums = graph_.reduce(CUDNN_REDUCE_TENSOR_ADD, products, rows());
    const Tensor row_sums =
        graph_.tensor({.id = kRowSums, .size = {p_.batch, h, sq, 1}, .stride = {h * sq, sq, 1, 1}});
    graph_.pointwise(CUDNN_POINTWISE_MUL, {.x = sums, .b = graph_.number(1.0f), .y = row_sums});

    // P = exp(S - lse), dV = Pᵀ · d_out
    Tensor s = scores(q, k, scale);
    s = mask_padding(s);
    s = graph_.pointwise(CUDNN_POINTWISE_SUB, {.x = s, .b = lse()});
    s = mask_band(s);
    const Tensor p = graph_.pointwise(CUDNN_POINTWISE_EXP, {.x = s});
    sum_over_queries(p, d_out, d_v);

    // dS = scale P (d_out · Vᵀ - D), dK = dSᵀ · Q
    const Tensor d_p =
        graph_.matmul({.a = d_out, .b = v, .c = squares(), .m = seqlen_q_, .n = seqlen_k_});
    Tensor d_s = graph_.pointwise(CUDNN_POINTWISE_SUB, {.x = d_p, .b = row_sums});
    d_s = graph_.pointwise(CUDNN_POINTWISE_MUL, {.x = d_s, .b = p});
    d_s = graph_.pointwise(CUDNN_POINTWISE_MUL, {.x = d_s, .b = scale});
    sum_over_queries(d_s, q, d_k);

    // dQ = dS · K, summed in fp32 memory
    TensorOptions rows_of_k = k->options();
    rows_of_k.id = 0;
    std::swap(rows_of_k.size[2], rows_of_k.size[3]);
    std::swap(rows_of_k.stride[2], rows_of_k.stride[3]);
    const Tensor k_rows = graph_.reshape(k, graph_.tensor(rows_of_k));
    const Tensor d_q_sums = graph_.tensor(
        {.id = kDQSums, .size = {p_.batch, h, sq, d}, .stride = {h * sq * d, sq * d, d, 1}});
    graph_.matmul({.a = d_s, .b = k_rows, .c = d_q_sums, .m = seqlen_q_, .k = seqlen_k_});
    graph_.pointwise(CUDNN_POINTWISE_IDENTITY, {.x = d_q_sums, .y = d_q});
    return graph_.compile(target);
  }

 private:
  int64_t dense() const { return p_.num_heads * p_.head_dim; }

  Tensor offsets(DataId id) {
    if (p_.even) return nullptr;
    Tensor& known = offsets_[id];
    if (!known) {
      known = graph_.tensor(
          {.id = id, .size = {p_.batch + 1, 1, 1, 1}, .stride = {1, 1, 1, 1}, .dtype = kInt});
    }
    return known;
  }
  // [batch, heads, length, head_dim] of tokens that are `stride` elements apart.
  Tensor heads(DataId id, DataId offset, int64_t count, int64_t length, int64_t stride) {
    return graph_.tensor({.id = id,
                          .size = {p_.batch, count, length, p_.head_dim},
                          .stride = {length * stride, p_.head_dim, stride, 1},
                          .dtype = kBf16,
                          .ragged_offset = offsets(offset)});
  }
  // Keys or values as [batch, heads, head_dim, length].
  Tensor transposed(DataId id, DataId offset, int64_t stride) {
    return graph_.tensor({.id = id,
                          .size = {p_.batch, p_.num_kv_heads, p_.head_dim, p_.max_seqlen_k},
                          .stride = {p_.max_seqlen_k * stride, p_.head_dim, 1, stride},
                          .dtype = kBf16,
                          .ragged_offset = offsets(offset)});
  }
  Tensor lse() {
    const int64_t h = p_.num_heads, sq = p_.max_seqlen_q;
    const Extents even = {sq, p_.batch * sq, 1, 1}, ragged = {h * sq, 1, h, 1};
    return graph_.tensor({.id = kLse,
                          .size = {p_.batch, h, sq, 1},
                          .stride = p_.even ? even : ragged,
                          .ragged_offset = offsets(kOffsetLse)});
  }
  // Intermediate [batch, heads, max_seqlen_q, max_seqlen_k], and a number per row of it.
  Tensor squares() {
    const int64_t h = p_.num_heads, sq = p_.max_seqlen_q, sk = p_.max_seqlen_k;
    return graph_.tensor({.size = {p_.batch, h, sq, sk}, .stride = {h * sq * sk, sq * sk, sk, 1}});
  }
  Tensor rows() {
    const int64_t h = p_.num_heads, sq = p_.max_seqlen_q;
    return graph_.tensor({.size = {p_.batch, h, sq, 1}, .stride = {h * sq, sq, 1, 1}});
  }

  Tensor scores(const Tensor& q, const Tensor& k, Tensor scale = nullptr) {
    const Tensor s =
        graph_.matmul({.a = q, .b = k, .c = squares(), .m = seqlen_q_, .n = seqlen_k_});
    return graph_.pointwise(CUDNN_POINTWISE_MUL,
                            {.x = s, .b = scale ? scale : graph_.number(p_.scale)});
  }
  Tensor index(const Tensor& s, int axis, cudnnDataType_t compute) {
    return graph_.pointwise(CUDNN_POINTWISE_GEN_INDEX,
                            {.x = s, .compute = compute, .result = kInt, .axis = axis});
  }
  Tensor compare(cudnnPointwiseMode_t mode, const Tensor& x, const Tensor& b) {
    return graph_.pointwise(mode, {.x = x, .b = b, .compute = kBool, .result = kBool});
  }
  Tensor where(const Tensor& visible, const Tensor& s) {
    const Tensor hidden = graph_.number(-std::numeric_limits<float>::infinity());
    return graph_.pointwise(CUDNN_POINTWISE_BINARY_SELECT, {.x = s, .b = hidden, .t = visible});
  }
  // Queries and keys past the end of a sequence.
  Tensor mask_padding(const Tensor& s) {
    if (p_.even) return s;
    const Tensor row = index(s, 2, kInt), column = index(s, 3, kInt);
    const Tensor rows = compare(CUDNN_POINTWISE_CMP_LT, row, seqlen_q_);
    const Tensor columns = compare(CUDNN_POINTWISE_CMP_LT, column, seqlen_k_);
    return where(compare(CUDNN_POINTWISE_LOGICAL_AND, rows, columns), s);
  }
  // Keys after the query, and before its window.
  Tensor mask_band(Tensor s) {
    if (p_.causal) {
      const Tensor row = index(s, 2, CUDNN_DATA_FLOAT), column = index(s, 3, CUDNN_DATA_FLOAT);
      s = where(compare(CUDNN_POINTWISE_CMP_GE, row, column), s);
    }
    if (p_.window > 0) {
      const Tensor row = index(s, 2, CUDNN_DATA_FLOAT), column = index(s, 3, CUDNN_DATA_FLOAT);
      const Tensor end = graph_.pointwise(
          CUDNN_POINTWISE_ADD,
          {.x = column, .b = graph_.number(static_cast<float>(p_.window)), .axis = 3});
      s = where(compare(CUDNN_POINTWISE_CMP_GT, end, row), s);
    }
    return s;
  }

  // result = sum over queries (and the heads that share keys) of weightsᵀ · x.
  void sum_over_queries(const Tensor& weights, const Tensor& x, const Tensor& result) {
    const int64_t h = p_.num_heads, sq = p_.max_seqlen_q, sk = p_.max_seqlen_k, d = p_.head_dim;
    const Tensor turned =
        graph_.reshape(weights, graph_.tensor({.size = {p_.batch, h, sk, sq},
                                               .stride = {h * sq * sk, sq * sk, 1, sk},
                                               .dtype = kBf16}));
    if (h == p_.num_kv_heads) {
      graph_.matmul({.a = turned, .b = x, .c = result, .m = seqlen_k_, .k = seqlen_q_});
      return;
    }
    const Tensor all = graph_.tensor(
        {.size = {p_.batch, h, sk, d}, .stride = {h * sk * d, sk * d, d, 1}, .dtype = kBf16});
    graph_.matmul({.a = turned, .b = x, .c = all, .m = seqlen_k_, .k = seqlen_q_});
    graph_.reduce(CUDNN_REDUCE_TENSOR_ADD, all, result);
  }

  const AttentionProblem& p_;
  Graph graph_;
  Tensor seqlen_q_, seqlen_k_;
  std::map<int64_t, Tensor> offsets_;
};

}  // namespace

Plan forward_plan(const AttentionProblem& problem, const Target& target) {
  return AttentionGraph(problem).forward(target);
}
Plan backward_plan(const AttentionProblem& problem, const Target& target) {
  return AttentionGraph(problem).backward(target);
}

}  // namespace engine::kernels::cuda::cudnn
