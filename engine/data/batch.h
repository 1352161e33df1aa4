// A micro-batch on the host: a flat list of tokens without padding. The trainer and this room meet
// here (written by the trainer's side; extend it, keep the names).
#pragma once

#include <cstdint>
#include <vector>

namespace engine {

struct Batch {
  std::vector<int32_t> input_ids;   // [N]
  std::vector<int32_t> positions;   // [N], restart at 0 in every sequence
  std::vector<int32_t> targets;     // [N]: the token to predict at each position, or -100
  std::vector<int32_t> cu_seqlens;  // [S + 1]
  int32_t max_seqlen = 0;
  int64_t num_targets = 0;  // targets that are not -100

  // Per sequence:
  std::vector<int64_t> rows;       // row of the dataset it comes from
  std::vector<int32_t> label_ids;  // its label (class, or group for per-label losses), -1 = none

  int64_t num_tokens() const { return static_cast<int64_t>(input_ids.size()); }
  int64_t num_sequences() const { return static_cast<int64_t>(cu_seqlens.size()) - 1; }
};

}  // namespace engine
