// What a piece of a SentencePiece vocabulary is for.
#pragma once

#include <cstddef>
#include <cstdint>

namespace engine::tokenizer {

// Longer pieces are refused: finding pieces in a text costs time in proportion to the longest one,
// and no vocabulary has longer ones.
inline constexpr size_t kMaxPieceBytes = 1024;

enum class PieceKind : uint8_t {
  kNormal,
  kUserDefined,  // wherever it stands in a text it becomes this one token
  kUnused,       // never given out
  kUnknown,      // stands for what is not in the vocabulary
  kControl,      // <s>, </s>, ...: not found in texts
  kByte,         // <0x00>...<0xFF>: bytes of characters that are not in the vocabulary
};

// Normal, user-defined and unused pieces are looked for in texts.
inline bool is_searched(PieceKind kind) {
  return kind <= PieceKind::kUnused;
}

}  // namespace engine::tokenizer
