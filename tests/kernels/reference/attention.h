// Attention as kernels/api/attention.h states it, in plain loops: the whole score matrix, no tiles.
//
// P, dS and outputs are rounded as `round` says.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/api/dropout.h"
#include "tests/kernels/reference/rounding.h"

namespace engine::kernels::testing {

// A batch; q, k, v, ... are Values of dense [tokens, heads, head_dim].
struct AttentionProblem {
  std::vector<int> query_lengths = {};
  std::vector<int> key_lengths = {};  // what cu_seqlens_k spans
  std::vector<int> keys_used = {};    // per sequence; empty: all
  int num_heads = 1, num_kv_heads = 1, head_dim = 8;
  double scale = 1.0;
  bool causal = true;
  int window = 0;
  int distance_count = 0, distance_offset = 0;  // count 0: no bias
  double dropout_p = 0.0;
  uint64_t dropout_seed = 0;

  int64_t total_q() const { return sum(query_lengths); }
  int64_t total_k() const { return sum(key_lengths); }
  int64_t query_values() const { return total_q() * num_heads * head_dim; }
  int64_t key_values() const { return total_k() * num_kv_heads * head_dim; }
  int64_t bias_values() const { return int64_t{num_heads} * distance_count; }
  int used(size_t s) const { return keys_used.empty() ? key_lengths[s] : keys_used[s]; }

 private:
  static int64_t sum(const std::vector<int>& lengths) {
    int64_t total = 0;
    for (int length : lengths) total += length;
    return total;
  }
};

struct AttentionInputs {
  Values q, k, v, bias;
};
struct AttentionOutputs {
  Values out, lse;
};
struct AttentionGradients {
  Values d_q, d_k, d_v, d_bias;
};

// Calls body(s, h, i, first query token, first key token) for every query of every head.
template <typename Body>
void for_each_query(const AttentionProblem& problem, const Body& body) {
  int64_t first_query = 0, first_key = 0;
  for (size_t s = 0; s < problem.query_lengths.size(); ++s) {
    for (int h = 0; h < problem.num_heads; ++h) {
      for (int64_t i = 0; i < problem.query_lengths[s]; ++i) body(s, h, i, first_query, first_key);
    }
    first_query += problem.query_lengths[s];
    first_key += problem.key_lengths[s];
  }
}

// One row of the score matrix, and what becomes of it.
template <typename Real>
struct AttentionRow {
  std::vector<int64_t> keys;      // that the query sees, within the sequence
  std::vector<int64_t> delta;     // index into the bias of the head
  std::vector<Real> score, kept;  // kept: 0 or 1/(1 - p)
  Real maximum = -std::numeric_limits<Real>::infinity(), sum = 0;
};

template <typename Real>
AttentionRow<Real> attention_row(const AttentionProblem& problem, const AttentionInputs& inputs,
                                 size_t s, int h, int64_t i, int64_t first_query,
                                 int64_t first_key) {
  AttentionRow<Real> row;
  const int64_t dim = problem.head_dim, g = h / (problem.num_heads / problem.num_kv_heads);
  const int64_t num_keys = problem.used(s);
  const int64_t position = i + num_keys - problem.query_lengths[s];
  for (int64_t j = 0; j < num_keys; ++j) {
    if (problem.causal && j > position) continue;
    if (problem.window > 0 && j <= position - problem.window) continue;
    const double* const q = &inputs.q[((first_query + i) * problem.num_heads + h) * dim];
    const double* const k = &inputs.k[((first_key + j) * problem.num_kv_heads + g) * dim];
    Real dot = 0;
    for (int64_t d = 0; d < dim; ++d) dot += static_cast<Real>(q[d]) * static_cast<Real>(k[d]);
    Real score = static_cast<Real>(problem.scale) * dot;
    const int64_t delta = h * problem.distance_count + j - position + problem.distance_offset;
    if (problem.distance_count > 0) score += static_cast<Real>(inputs.bias[delta]);
    Real kept = 1;
    if (problem.dropout_p > 0) {
      const auto index = static_cast<uint64_t>(h * problem.total_q() + first_query + i);
      const float uniform =
          philox_uniform(problem.dropout_seed, (index << 20) + static_cast<uint64_t>(j));
      kept = uniform >= static_cast<float>(problem.dropout_p)
                 ? static_cast<Real>(1.0 / (1.0 - problem.dropout_p))
                 : Real{0};
    }
    row.keys.push_back(j);
    row.delta.push_back(delta);
    row.score.push_back(score);
    row.kept.push_back(kept);
    row.maximum = std::max(row.maximum, score);
  }
  for (Real score : row.score) row.sum += std::exp(score - row.maximum);
  return row;
}

template <typename Real>
AttentionOutputs reference_attention(const AttentionProblem& problem, const AttentionInputs& inputs,
                                     Rounding round) {
  const int64_t dim = problem.head_dim, total_q = problem.total_q();
  AttentionOutputs outputs = {Values(inputs.q.size(), 0.0),
                              Values(static_cast<size_t>(problem.num_heads * total_q),
                                     -std::numeric_limits<double>::infinity())};
  for_each_query(problem, [&](size_t s, int h, int64_t i, int64_t first_query, int64_t first_key) {
    const auto row = attention_row<Real>(problem, inputs, s, h, i, first_query, first_key);
    if (row.keys.empty()) return;
    const int64_t token = first_query + i, g = h / (problem.num_heads / problem.num_kv_heads);
    outputs.lse[h * total_q + token] = row.maximum + std::log(row.sum);
    std::vector<Real> sums(static_cast<size_t>(dim), Real{0});
    for (size_t c = 0; c < row.keys.size(); ++c) {
      const Real p = round(std::exp(row.score[c] - row.maximum) * row.kept[c]);
      const double* const v =
          &inputs.v[((first_key + row.keys[c]) * problem.num_kv_heads + g) * dim];
      for (int64_t d = 0; d < dim; ++d) sums[d] += p * static_cast<Real>(v[d]);
    }
    for (int64_t d = 0; d < dim; ++d) {
      outputs.out[(token * problem.num_heads + h) * dim + d] = round(sums[d] / row.sum);
    }
  });
  return outputs;
}

// `outputs` as the forward wrote them. Gradients are rounded like outputs (d_bias stays fp32).
template <typename Real>
AttentionGradients reference_attention_backward(const AttentionProblem& problem,
                                                const AttentionInputs& inputs,
                                                const AttentionOutputs& outputs,
                                                const Values& d_out, Rounding round) {
  const int64_t dim = problem.head_dim, total_q = problem.total_q();
  const auto scale = static_cast<Real>(problem.scale);
  std::vector<Real> d_q(inputs.q.size()), d_k(inputs.k.size()), d_v(inputs.v.size()),
      d_bias(inputs.bias.size());
  for_each_query(problem, [&](size_t s, int h, int64_t i, int64_t first_query, int64_t first_key) {
    const auto row = attention_row<Real>(problem, inputs, s, h, i, first_query, first_key);
    const int64_t token = first_query + i, g = h / (problem.num_heads / problem.num_kv_heads);
    const int64_t at_query = (token * problem.num_heads + h) * dim;
    // From the last dim to the first: in the order of dP, a twin's rounding errors would cancel
    // where P is 1, which no kernel has to match.
    Real row_sum = 0;
    for (int64_t d = dim - 1; d >= 0; --d) {
      const int64_t at = at_query + d;
      row_sum += static_cast<Real>(d_out[at]) * static_cast<Real>(outputs.out[at]);
    }
    for (size_t c = 0; c < row.keys.size(); ++c) {
      const int64_t at_key = ((first_key + row.keys[c]) * problem.num_kv_heads + g) * dim;
      const Real p = std::exp(row.score[c] - static_cast<Real>(outputs.lse[h * total_q + token]));
      Real dp = 0;
      for (int64_t d = 0; d < dim; ++d) {
        dp += static_cast<Real>(d_out[at_query + d]) * static_cast<Real>(inputs.v[at_key + d]);
      }
      const Real ds = p * (dp * row.kept[c] - row_sum);
      const Real p_rounded = round(p * row.kept[c]), ds_rounded = round(ds);
      if (problem.distance_count > 0) d_bias[row.delta[c]] += ds;
      for (int64_t d = 0; d < dim; ++d) {
        d_q[at_query + d] += scale * ds_rounded * static_cast<Real>(inputs.k[at_key + d]);
        d_k[at_key + d] += scale * ds_rounded * static_cast<Real>(inputs.q[at_query + d]);
        d_v[at_key + d] += p_rounded * static_cast<Real>(d_out[at_query + d]);
      }
    }
  });
  const auto rounded_values = [&](const std::vector<Real>& values) {
    Values result(values.size());
    for (size_t i = 0; i < values.size(); ++i) result[i] = round(values[i]);
    return result;
  };
  return {rounded_values(d_q), rounded_values(d_k), rounded_values(d_v),
          Values(d_bias.begin(), d_bias.end())};
}

}  // namespace engine::kernels::testing
