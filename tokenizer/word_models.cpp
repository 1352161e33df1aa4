#include "tokenizer/word_models.h"

#include <fmt/core.h>

#include "engine/core/error.h"
#include "tokenizer/unicode.h"

namespace engine::tokenizer {
namespace {

class WordPiece final : public Model {
 public:
  WordPiece(Vocabulary vocabulary, WordPieceModelOptions options)
      : vocabulary_(std::move(vocabulary)), options_(std::move(options)) {
    unk_id_ = vocabulary_.find(options_.unk_token);
    if (unk_id_ < 0) {
      throw Error(ExitCode::checkpoint, "TOK-MALFORMED",
                  fmt::format("the unknown token \"{}\" is not in the vocabulary",
                              excerpt(options_.unk_token)));
    }
  }

  std::string name() const override { return "WordPiece"; }
  const Vocabulary& vocabulary() const override { return vocabulary_; }
  std::unique_ptr<ModelScratch> make_scratch() const override {
    return std::make_unique<ModelScratch>();
  }

  void encode(std::string_view word, ModelScratch&, std::vector<int32_t>* ids) const override {
    size_t characters = 0;
    for (size_t at = 0; at < word.size(); at += character_length(word, at)) {
      if (++characters <= options_.max_characters) continue;
      ids->push_back(unk_id_);
      return;
    }
    const size_t before = ids->size();
    std::string piece;
    for (size_t begin = 0; begin < word.size();) {
      size_t end = word.size();
      int32_t id = -1;
      while (end > begin) {
        piece = begin > 0 ? options_.prefix : "";
        piece += word.substr(begin, end - begin);
        id = vocabulary_.find(piece);
        if (id >= 0) break;
        end -= decode_code_point_before(word, end).length;
      }
      if (id < 0) {
        ids->resize(before);
        ids->push_back(unk_id_);
        return;
      }
      ids->push_back(id);
      begin = end;
    }
  }

 private:
  Vocabulary vocabulary_;
  WordPieceModelOptions options_;
  int32_t unk_id_;
};

class WordLevel final : public Model {
 public:
  WordLevel(Vocabulary vocabulary, const std::string& unk_token)
      : vocabulary_(std::move(vocabulary)), unk_id_(vocabulary_.find(unk_token)) {}

  std::string name() const override { return "WordLevel"; }
  const Vocabulary& vocabulary() const override { return vocabulary_; }
  std::unique_ptr<ModelScratch> make_scratch() const override {
    return std::make_unique<ModelScratch>();
  }

  void encode(std::string_view word, ModelScratch&, std::vector<int32_t>* ids) const override {
    int32_t id = vocabulary_.find(word);
    if (id < 0) id = unk_id_;
    if (id < 0) {
      throw Error(
          ExitCode::checkpoint, "TOK-UNKNOWN",
          fmt::format("\"{}\" is not in the vocabulary, nor is the unknown token", excerpt(word)))
          .expected("model.unk_token in model.vocab");
    }
    ids->push_back(id);
  }

 private:
  Vocabulary vocabulary_;
  int32_t unk_id_;
};

}  // namespace

std::unique_ptr<Model> make_word_piece_model(Vocabulary vocabulary, WordPieceModelOptions options) {
  return std::make_unique<WordPiece>(std::move(vocabulary), std::move(options));
}

std::unique_ptr<Model> make_word_level_model(Vocabulary vocabulary, const std::string& unk_token) {
  return std::make_unique<WordLevel>(std::move(vocabulary), unk_token);
}

}  // namespace engine::tokenizer
