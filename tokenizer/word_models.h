// Models that look words up: WordPiece (BERT) and WordLevel.
#pragma once

#include <memory>
#include <string>

#include "tokenizer/model.h"

namespace engine::tokenizer {

struct WordPieceModelOptions {
  std::string unk_token = "[UNK]";
  std::string prefix = "##";    // of pieces that continue a word
  size_t max_characters = 100;  // longer words are unknown
};
// The longest piece that begins the word, then the longest that continues it, and so on; a word
// that cannot be made of pieces is one unknown token. Throws TOK-MALFORMED when the unknown token
// is not in the vocabulary.
std::unique_ptr<Model> make_word_piece_model(Vocabulary vocabulary, WordPieceModelOptions options);

// A word is a token or unknown. Encoding throws TOK-UNKNOWN when there is no unknown token.
std::unique_ptr<Model> make_word_level_model(Vocabulary vocabulary, const std::string& unk_token);

}  // namespace engine::tokenizer
