// From files to the parts of a tokenizer.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer_parts.h"

namespace engine::tokenizer {

// Opens a directory or a file; see Tokenizer::open for what is looked for.
TokenizerParts load_tokenizer(const std::filesystem::path& path,
                              const TokenizerOpenOptions& options);

// Reads the text of a tokenizer.json. `file` is named in errors. `extra_tokens` (of
// tokenizer_config.json) are added where the text has no token of that content.
TokenizerParts load_tokenizer_json(std::string_view text, const std::string& file,
                                   const std::vector<AddedToken>& extra_tokens);

// vocab.json and merges.txt in the style of GPT-2.
struct VocabMergesFiles {
  std::string_view vocab, merges;
  std::string vocab_name, merges_name;
  std::vector<AddedToken> added_tokens;
  std::string split_pattern;  // "gpt2" or "qwen2"
};
TokenizerParts load_vocab_merges(const VocabMergesFiles& files);

// A tiktoken rank file: lines of base64(token) and rank. `added_tokens` and `split_pattern` may be
// empty for 128000 ranks, which are Llama 3.
struct TiktokenFile {
  std::string_view ranks;
  std::string name;
  std::vector<AddedToken> added_tokens;
  std::string split_pattern;
};
bool looks_like_tiktoken(std::string_view contents);
TokenizerParts load_tiktoken(const TiktokenFile& file);

}  // namespace engine::tokenizer
