// SentencePiece models made by hand.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace engine::testing {

// Numbers of the protocol buffer.
enum PieceType {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};
enum ModelType { kUnigram = 1, kBpe = 2 };

struct SpmPiece {
  std::string text;
  float score = 0;
  PieceType type = kNormal;
};

struct SpmModel {
  std::vector<SpmPiece> pieces;
  ModelType type = kUnigram;
  bool byte_fallback = false;
  bool suffix = false;  // treat_whitespace_as_suffix
  bool dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  std::string charsmap;
};

// The bytes of the file.
std::string serialize(const SpmModel& model);
// A field of a protocol buffer: bytes or an integer.
std::string bytes_field(uint32_t number, std::string_view bytes);
std::string integer_field(uint32_t number, uint64_t value);

// The tokenizer of a file in memory.
Tokenizer open_sentencepiece(std::string_view contents);
Tokenizer open_sentencepiece(const SpmModel& model);

// <unk>, <s>, </s> and, if asked for, 256 bytes.
std::vector<SpmPiece> reserved_pieces(bool with_bytes = false);

// A charsmap that replaces the ASCII character `from`.
std::string one_rule_charsmap(char from, std::string_view to);

}  // namespace engine::testing
