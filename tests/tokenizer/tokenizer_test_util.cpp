#include "tests/tokenizer/tokenizer_test_util.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "tokenizer/byte_level.h"

namespace engine::testing {

std::string to_json(const TinyTokenizer& t) {
  nlohmann::json vocab = nlohmann::json::object();
  for (size_t id = 0; id < t.vocab.size(); ++id) vocab[t.vocab[id]] = id;
  return fmt::format(
      R"({{"version": "1.0", "added_tokens": {}, "normalizer": {}, "pre_tokenizer": {},
           "post_processor": {}, "decoder": {},
           "model": {{"type": "BPE", {} "vocab": {}, "merges": {}}}}})",
      t.added_tokens, t.normalizer, t.pre_tokenizer, t.post_processor, t.decoder, t.model_options,
      vocab.dump(), nlohmann::json(t.merges).dump());
}

std::vector<std::string> byte_vocab() {
  std::vector<std::string> vocab;
  for (int byte = 0; byte < 256; ++byte) {
    const char raw = static_cast<char>(byte);
    vocab.push_back(tokenizer::spell_bytes(std::string_view(&raw, 1)));
  }
  return vocab;
}

std::vector<std::string> byte_fallback_vocab() {
  std::vector<std::string> vocab;
  for (int byte = 0; byte < 256; ++byte) vocab.push_back(fmt::format("<0x{:02X}>", byte));
  return vocab;
}

TinyTokenizer byte_level_tokenizer() {
  TinyTokenizer t;
  t.pre_tokenizer = kByteLevel;
  t.decoder = kByteLevelDecoder;
  t.vocab = byte_vocab();
  for (const char* merge : {"t h", "th e", "\u0120 the", "l l", "'l l"}) {
    std::string text = merge;
    t.merges.push_back(text);
    text.erase(text.find(' '), 1);
    t.vocab.push_back(text);
  }
  t.merges[4] = "' ll";
  t.added_tokens =
      R"([{"id": 261, "content": "<|end|>", "special": true, "normalized": false},
          {"id": 262, "content": "<tool>", "special": false, "normalized": false}])";
  t.post_processor = R"({"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}},
                 {"Sequence": {"id": "A", "type_id": 0}},
                 {"SpecialToken": {"id": "<|end|>", "type_id": 0}}],
      "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [261], "tokens": ["<|end|>"]}}})";
  return t;
}

const std::string_view kSampleText =
    "The quick brown fox doesn't jump over the lazy dog.\n"
    "  Indented, with 1234 numbers and 3.14159; symbols {}[]() -> && ||.\n"
    "na\u00efve caf\u00e9 \u2014 \u65e5\u672c\u8a9e \U0001F600\tthe the the end\n\n\n";

}  // namespace engine::testing
