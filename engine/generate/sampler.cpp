#include "engine/generate/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <unordered_set>

namespace engine {

void apply_repetition_penalty(std::span<float> logits, std::span<const int32_t> ids,
                              float penalty) {
  if (penalty == 1.0f) return;
  const std::unordered_set<int32_t> distinct(ids.begin(), ids.end());
  for (const int32_t id : distinct) {
    if (id < 0 || id >= static_cast<int64_t>(logits.size())) continue;
    logits[id] = logits[id] < 0 ? logits[id] * penalty : logits[id] / penalty;
  }
}

std::vector<Candidate> candidates(std::span<const float> logits, const SamplingOptions& options) {
  std::vector<Candidate> kept;
  kept.reserve(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    const float z = logits[i] / options.temperature;
    if (z > -std::numeric_limits<float>::infinity())
      kept.push_back({static_cast<int32_t>(i), z, 0});
  }
  if (kept.empty()) throw std::domain_error("candidates: every logit is -inf or NaN");
  const auto better = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  if (options.top_k > 0 && static_cast<size_t>(options.top_k) < kept.size()) {
    const auto kth = kept.begin() + (options.top_k - 1);
    std::nth_element(kept.begin(), kth, kept.end(), better);
    const float threshold = kth->logit;
    std::erase_if(kept, [threshold](const Candidate& c) { return c.logit < threshold; });
  }
  std::sort(kept.begin(), kept.end(), better);

  const float best = kept.front().logit;
  // One token with an infinite logit has all the mass.
  const auto weight = [best](float z) { return z == best ? 1.0 : std::exp(double{z} - best); };
  double total = 0;
  for (const Candidate& c : kept) total += weight(c.logit);
  if (options.top_p < 1.0f) {
    // A token stays iff the mass strictly above it is below top_p; the best always stays.
    double above = 0;
    size_t size = 0;
    while (size < kept.size() && (size == 0 || above < options.top_p)) {
      above += weight(kept[size++].logit) / total;
    }
    kept.resize(size);
  }
  if (options.min_p > 0.0f) {
    std::erase_if(kept, [&](const Candidate& c) { return weight(c.logit) < options.min_p; });
  }
  total = 0;
  for (const Candidate& c : kept) total += weight(c.logit);
  for (Candidate& c : kept) c.probability = static_cast<float>(weight(c.logit) / total);
  return kept;
}

int32_t choose_token(std::span<float> logits, std::span<const int32_t> history,
                     const SamplingOptions& options, float uniform) {
  apply_repetition_penalty(logits, history, options.repetition_penalty);
  if (!options.do_sample) {
    size_t best = 0;
    for (size_t i = 1; i < logits.size(); ++i) {
      if (logits[i] > logits[best] || std::isnan(logits[best])) best = i;
    }
    return static_cast<int32_t>(best);
  }
  const std::vector<Candidate> kept = candidates(logits, options);
  double cumulated = 0;
  for (const Candidate& c : kept) {
    cumulated += c.probability;
    if (uniform < cumulated) return c.id;
  }
  return kept.back().id;  // rounding left the sum just under 1
}

}  // namespace engine
