// Token ids of a parsed row, with what of them is trained. The rules are those of tokenise.h.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/data/row_parser.h"
#include "engine/data/tokenise.h"

namespace engine {

struct EncodedRow {
  std::vector<int32_t> ids;
  std::vector<uint8_t> trainable;  // one per id
  uint64_t content = 0;            // hash of what the row says: rows of the same content are equal
  uint32_t source_length = 0;      // pairs: so many of the ids are the source
  std::optional<std::string> label;
  bool conversation = false;
  bool prefix_mismatch = false;  // the ids of the prompt alone are not the first ones of the whole
  uint64_t cut_tokens = 0;       // taken away to keep the row short
};

// Keeps references to both arguments. Safe to use from several threads at once.
// Throws: DATA-SPECIAL (a policy needs a token that the tokenizer lacks) when made; encode throws
// DATA-FORMAT for a conversation without a chat template, and what TextEncoder throws.
class RowEncoder {
 public:
  RowEncoder(const TokeniseOptions& options, const TextEncoder& encoder);
  EncodedRow encode(ParsedRow row) const;

 private:
  void encode_pair(ParsedRow row, EncodedRow& result) const;
  void encode_whole(ParsedRow& row, EncodedRow& result) const;
  EncodedChatRow encode_conversation(const ParsedRow& row, TrainOn train_on) const;
  void shorten(std::vector<int32_t>& ids, size_t length) const;

  const TextEncoder& encoder_;
  const FieldOptions& fields_;
  TrainOn train_on_;
  bool pairs_;
  bool bos_text_, eos_text_;    // texts get them where they lack them
  bool bos_given_, eos_given_;  // and other rows, because the config says so
  std::optional<ClassificationRows> classification_;
  Wrapping single_, pair_;  // rows to classify
};

}  // namespace engine
