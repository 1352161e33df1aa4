#include "engine/data/batch.h"

#include <algorithm>
#include <stdexcept>

namespace engine {
namespace {

constexpr int32_t kIgnore = -100;

}  // namespace

void append_pair(Batch& batch, std::span<const int32_t> source,
                 std::span<const int32_t> decoder_inputs, std::span<const int32_t> targets) {
  if (source.empty() || targets.empty() || decoder_inputs.size() != targets.size()) {
    throw std::logic_error("append_pair: lengths");
  }
  const auto append = [](std::vector<int32_t>& list, std::span<const int32_t> values) {
    list.insert(list.end(), values.begin(), values.end());
  };
  Batch::Source& from = batch.source;
  if (batch.cu_seqlens.empty()) batch.cu_seqlens.push_back(0);
  if (from.cu_seqlens.empty()) from.cu_seqlens.push_back(0);
  append(from.input_ids, source);
  from.cu_seqlens.push_back(static_cast<int32_t>(from.input_ids.size()));
  from.max_seqlen = std::max(from.max_seqlen, static_cast<int32_t>(source.size()));
  append(batch.input_ids, decoder_inputs);
  append(batch.targets, targets);
  for (size_t t = 0; t < targets.size(); ++t) batch.positions.push_back(static_cast<int32_t>(t));
  batch.cu_seqlens.push_back(static_cast<int32_t>(batch.input_ids.size()));
  batch.max_seqlen = std::max(batch.max_seqlen, static_cast<int32_t>(targets.size()));
  batch.num_targets +=
      static_cast<int64_t>(targets.size()) - std::count(targets.begin(), targets.end(), kIgnore);
}

std::vector<int32_t> shift_right(std::span<const int32_t> labels, int32_t start_id,
                                 int32_t pad_id) {
  std::vector<int32_t> inputs;
  inputs.reserve(labels.size());
  int32_t before = start_id;
  for (const int32_t label : labels) {
    inputs.push_back(before == kIgnore ? pad_id : before);
    before = label;
  }
  return inputs;
}

}  // namespace engine
