// The unigram language model of SentencePiece: of all ways to cut a text into pieces the one with
// the largest sum of scores (log probabilities).
//
// Kudo, "Subword Regularization" (2018). Viterbi over byte positions; of equally good paths to a
// position the one that came from further left stays. Arithmetic follows the two implementations
// there are, since rounding decides ties: sums kept in float in sentencepiece (up to 0.2.1; later
// versions also add in float), in double in Hugging Face tokenizers.
#pragma once

#include <memory>
#include <vector>

#include "tokenizer/model.h"
#include "tokenizer/piece_kind.h"
#include "tokenizer/prefix_trie.h"

namespace engine::tokenizer {

struct UnigramOptions {
  enum class Flavor { kHuggingFace, kSentencePiece };
  Flavor flavor = Flavor::kHuggingFace;
  std::vector<double> scores;    // by id
  std::vector<PieceKind> kinds;  // by id; empty: all normal
  int32_t unk_id = -1;           // -1: text outside the vocabulary is an error
  // Characters outside the vocabulary become the pieces <0x00>...<0xFF> of their bytes.
  bool byte_fallback = false;
};

class Unigram final : public Model {
 public:
  Unigram(Vocabulary vocabulary, UnigramOptions options);

  std::string name() const override {
    return byte_ids_.empty() ? "Unigram" : "Unigram with byte fallback";
  }
  const Vocabulary& vocabulary() const override { return vocabulary_; }
  std::unique_ptr<ModelScratch> make_scratch() const override;
  // Throws TOK-UNKNOWN if a character is unknown and there is no unknown token.
  void encode(std::string_view piece, ModelScratch& scratch,
              std::vector<int32_t>* ids) const override;

 private:
  struct Scratch;

  // Calls path_piece(begin, end, id) for the pieces of the best path, from left to right.
  template <typename Sum, typename PathPiece>
  void find_best_path(std::string_view text, Scratch& scratch, PathPiece path_piece) const;
  void encode_uncached(std::string_view text, Scratch& scratch, std::vector<int32_t>* ids) const;
  void append_unknown(std::string_view text, std::vector<int32_t>* ids) const;
  double score_of(int32_t id, size_t num_bytes) const;

  Vocabulary vocabulary_;
  UnigramOptions options_;
  PrefixTrie trie_;
  std::vector<int32_t> byte_ids_;  // of <0x00>...<0xFF>, -1 where absent; empty without fallback
  double unk_score_ = 0;
  float max_score_ = 0;
};

}  // namespace engine::tokenizer
