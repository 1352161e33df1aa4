// A micro-batch on the host, where the data room and the trainer meet.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace engine {

// Position in the order of the data: micro-batch `index` of epoch `epoch`, both from 0.
struct DataPosition {
  uint64_t epoch = 0;
  uint64_t index = 0;
  bool operator==(const DataPosition&) const = default;
};

// A micro-batch without padding, in host memory. Sequence s is tokens cu_seqlens[s] ..
// cu_seqlens[s + 1] - 1; sequences do not see each other.
struct Batch {
  std::vector<int32_t> input_ids;   // [N]
  std::vector<int32_t> positions;   // [N]; from 0 in every sequence
  std::vector<int32_t> targets;     // [N]; the next token, or -100
  std::vector<int32_t> cu_seqlens;  // [S + 1]
  std::vector<uint32_t> rows;       // [S]; row in TokenisedRows, for messages
  std::vector<int32_t> labels;      // [S]; index into label_names, -1 = none
  int32_t max_seqlen = 0;
  int64_t num_targets = 0;  // targets that are not -100
  // Encoder-decoder models: what the encoder reads, sequence for sequence. The lists above are then
  // the decoder's: input_ids[t] is the target before t (the first one the decoder's start token),
  // and targets[t] what is predicted there. Empty for other models.
  struct Source {
    std::vector<int32_t> input_ids;   // [M]
    std::vector<int32_t> cu_seqlens;  // [S + 1]
    int32_t max_seqlen = 0;
  } source;
  DataPosition position;
  bool last_in_epoch = false;

  int64_t num_tokens() const { return static_cast<int64_t>(input_ids.size()); }
  int64_t num_source_tokens() const { return static_cast<int64_t>(source.input_ids.size()); }
  int64_t num_sequences() const { return static_cast<int64_t>(rows.size()); }
};

// A sequence of an encoder-decoder model at the end of the lists: what the encoder reads, and the
// inputs and targets of the decoder, equally many. Its row number, label and position are the
// caller's.
void append_pair(Batch& batch, std::span<const int32_t> source,
                 std::span<const int32_t> decoder_inputs, std::span<const int32_t> targets);

// Inputs of a decoder that shall predict `labels`: the start id, then all labels but the last; -100
// becomes the pad id (transformers' shift_tokens_right).
std::vector<int32_t> shift_right(std::span<const int32_t> labels, int32_t start_id, int32_t pad_id);

}  // namespace engine
