// Reads tokenizer JSON: the hundreds of thousands of entries of "vocab" and "merges" go straight
// into flat lists, only the small rest becomes a tree.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/vocabulary.h"

namespace engine::tokenizer {

// The large parts of a model: tokens, scores of a Unigram model, merges of a BPE model.
struct ModelLists {
  struct Token {
    uint32_t offset, length;  // in `text`
    int32_t id;
  };
  struct Merge {
    uint32_t offset, left_length, right_length;  // right follows left in `text`
  };
  std::string text;
  std::vector<Token> vocab;
  std::vector<double> scores;  // of `vocab`, when its entries are [token, score]
  std::vector<Merge> merges;
  bool has_vocab = false;
  bool has_scores = false;
  bool has_merges = false;

  std::string_view token(const Token& t) const {
    return std::string_view(text).substr(t.offset, t.length);
  }
  std::string_view left(const Merge& m) const {
    return std::string_view(text).substr(m.offset, m.left_length);
  }
  std::string_view right(const Merge& m) const {
    return std::string_view(text).substr(m.offset + m.left_length, m.right_length);
  }
  void add_merge(std::string_view left, std::string_view right);
};

// Reads a tokenizer.json: model.vocab and model.merges into `lists`, all else into `root`. Throws
// TOK-JSON for malformed JSON, TOK-MALFORMED or TOK-MERGES for entries of a wrong type,
// TOK-DUPLICATE for a key that stands twice in an object.
void parse_tokenizer_json(std::string_view text, const std::string& file, nlohmann::json* root,
                          ModelLists* lists);

// Reads a vocab.json: one object from token to id.
void parse_vocab_json(std::string_view text, const std::string& file, ModelLists* lists);

// Reads any other small JSON file. Throws TOK-JSON.
nlohmann::json parse_json(std::string_view text, const std::string& file);

// Fills a vocabulary; throws TOK-DUPLICATE.
Vocabulary make_vocabulary(const ModelLists& lists, const std::string& file);

}  // namespace engine::tokenizer
