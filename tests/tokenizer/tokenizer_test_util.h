// Small tokenizers written in the test itself, so that most tests need no data.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace engine::testing {

using Ids = std::vector<int32_t>;

// Fields of a tokenizer.json as JSON text; vocabulary and merges as plain lists.
struct TinyTokenizer {
  std::string normalizer = "null";
  std::string pre_tokenizer = "null";
  std::string post_processor = "null";
  std::string decoder = "null";
  std::string added_tokens = "[]";
  std::string model_options = "";   // e.g. "\"byte_fallback\": true,"
  std::vector<std::string> vocab;   // by id
  std::vector<std::string> merges;  // "left right"
};

// The text of the tokenizer.json.
std::string to_json(const TinyTokenizer& tokenizer);

inline const char kByteLevel[] =
    R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})";
inline const char kByteLevelDecoder[] = R"({"type": "ByteLevel"})";

// The 256 byte characters, ids 0 to 255 in the order of the bytes.
std::vector<std::string> byte_vocab();
// "<0x00>" to "<0xFF>".
std::vector<std::string> byte_fallback_vocab();

// Bytes, a few merges, and an end-of-text token around every text.
TinyTokenizer byte_level_tokenizer();

// A small English text with some of everything.
extern const std::string_view kSampleText;

}  // namespace engine::testing
