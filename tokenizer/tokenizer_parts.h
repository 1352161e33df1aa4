// The pipeline a Tokenizer runs, one part per stage. Loaders fill it in; a new file format or
// algorithm is a new part, not a new tokenizer.
//
//   encode: added tokens -> normalizer -> added tokens (normalized) -> pre-tokenizer -> model
//           -> post-processor
//   decode: token texts -> decoder steps
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/decoder.h"
#include "tokenizer/model.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"

namespace engine::tokenizer {

// What encode(add_special_tokens) puts around the ids of a text.
struct PostProcessor {
  std::vector<int32_t> prefix;
  std::vector<int32_t> suffix;
  // Around a pair of texts, where it is not one text after the other.
  std::optional<PairIds> pair = std::nullopt;
};

struct TokenizerParts {
  std::unique_ptr<Normalizer> normalizer;       // may be null
  std::unique_ptr<PreTokenizer> pre_tokenizer;  // may be null
  std::unique_ptr<Model> model;
  AddedTokens added_tokens;
  PostProcessor post_processor;
  Decoder decoder;  // empty: texts are joined without more
  TokenRoles roles;
  std::vector<TokenizerFile> files;
};

}  // namespace engine::tokenizer
