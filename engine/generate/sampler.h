// The next token from logits, with the processors and the order of HF's generate():
// repetition penalty, then for sampling temperature, top-k, top-p, min-p, softmax, draw.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace engine {

struct SamplingOptions {
  bool do_sample =
      false;  // false: the largest logit; temperature, top_k, top_p, min_p are not read
  float temperature = 1.0f;         // > 0
  int64_t top_k = 50;               // keep the k largest and all equal to the k-th; 0 = off
  float top_p = 1.0f;               // keep the smallest set with at least this mass; 1 = off
  float min_p = 0.0f;               // keep what has at least min_p of the best's mass; 0 = off
  float repetition_penalty = 1.0f;  // on each distinct id of the sequence so far; 1 = off
};

// For every distinct id: s < 0 ? s · penalty : s / penalty.
void apply_repetition_penalty(std::span<float> logits, std::span<const int32_t> ids, float penalty);

// A token and its probability, what sampling draws from.
struct Candidate {
  int32_t id;
  float logit;
  float probability;
};

// The distribution after temperature, top-k, top-p and min-p: most probable first, equal ones by
// id; probabilities sum to 1. Logits of -inf and NaN are never candidates.
std::vector<Candidate> candidates(std::span<const float> logits, const SamplingOptions& options);

// Chooses a token. `uniform` in [0, 1) decides when sampling (inverse of the cumulated
// probabilities). Equal largest logits: the smallest id. `logits` is changed by the penalty.
int32_t choose_token(std::span<float> logits, std::span<const int32_t> history,
                     const SamplingOptions& options, float uniform);

}  // namespace engine
