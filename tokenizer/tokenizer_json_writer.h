// Writes a tokenizer.json that the Hugging Face libraries load.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tokenizer/added_tokens.h"

namespace engine::tokenizer {

// A BPE tokenizer as the file spells it.
struct BpeFile {
  enum class Style {
    kByteLevel,     // GPT-2 family: byte alphabet, splitting pattern
    kByteFallback,  // Llama 2: "▁" for spaces, <0xXX> for unknown characters, BOS in front
  };
  Style style = Style::kByteLevel;
  std::string split_regex;         // kByteLevel only; empty: the GPT-2 pattern built into ByteLevel
  std::vector<std::string> vocab;  // by id
  std::vector<std::pair<std::string, std::string>> merges;  // by rank
  std::vector<AddedToken> added_tokens;
  AddedToken bos, unk;  // kByteFallback only
};

std::string write_tokenizer_json(const BpeFile& file);

// A Unigram tokenizer with byte fallback, "▁" for spaces and in front of every text, cut at line
// breaks and before spaces.
struct UnigramFile {
  std::vector<std::pair<std::string, double>> vocab;  // token and score, by id
  int32_t unk_id = 0;
  std::vector<AddedToken> added_tokens;
};
std::string write_tokenizer_json(const UnigramFile& file);

}  // namespace engine::tokenizer
