// The contents of a SentencePiece model file (`tokenizer.model`, `spiece.model`): a protocol buffer
// of type ModelProto, read without the protobuf library.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/piece_kind.h"

namespace engine::tokenizer {

struct SentencePieceFile {
  struct Piece {
    std::string_view text;
    float score = 0;
    PieceKind kind = PieceKind::kNormal;
  };
  enum class Algorithm { kUnigram = 1, kBpe = 2, kWord = 3, kChar = 4 };

  std::vector<Piece> pieces;  // by id

  // trainer_spec, as far as encoding depends on it.
  Algorithm algorithm = Algorithm::kUnigram;
  bool byte_fallback = false;
  bool whitespace_is_suffix = false;
  std::string_view unk_piece = "<unk>", bos_piece = "<s>", eos_piece = "</s>", pad_piece = "<pad>";

  // normalizer_spec
  std::string_view precompiled_charsmap;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;

  std::string_view denormalizer_charsmap;
};

// The views point into `contents`. Throws TOK-MALFORMED, naming `file` and the byte offset, when
// the file is cut off or no such file; TOK-DUPLICATE for a piece that stands twice.
SentencePieceFile read_sentencepiece(std::string_view contents, const std::string& file);

}  // namespace engine::tokenizer
