// The unigram language model while it is trained: pieces with scores, every way to make a word of
// them, one round of expectation maximisation, and pruning (Kudo 2018, "Subword Regularization",
// section 3.2; sentencepiece's trainer).
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/frequent_substrings.h"
#include "tokenizer/prefix_trie.h"

namespace engine::tokenizer {

struct UnigramPiece {
  std::string text;
  double score = 0;  // a count first, then log probability
};

class UnigramLattice {
 public:
  explicit UnigramLattice(std::vector<UnigramPiece> pieces);

  const std::vector<UnigramPiece>& pieces() const { return pieces_; }
  double unknown_score() const { return unknown_score_; }
  // Those that are not gone.
  std::vector<UnigramPiece> surviving() const;

  // One round of expectation maximisation; pieces expected less than half a time are gone: their
  // score is -infinity.
  void maximize(const std::vector<CountedWord>& words);

  // The `size` pieces whose loss would cost the likelihood of the words most. A piece that is lost
  // is taken to be replaced by the second best way to make it. Pieces that nothing else makes stay,
  // also when there are more than `size` of them.
  std::vector<UnigramPiece> prune(const std::vector<CountedWord>& words, size_t size);

 private:
  struct Edge {
    size_t begin, end;
    double score;
    int32_t piece;  // -1: an unknown character
  };
  struct Best {
    double score = -std::numeric_limits<double>::infinity();
    size_t edge = 0;
  };

  void add_expectations(const CountedWord& word, std::vector<double>* expected);
  double find_best_path(std::string_view word, bool without_whole, std::vector<int32_t>* path);
  void find_edges(std::string_view word);
  void update_unknown();

  std::vector<UnigramPiece> pieces_;
  PrefixTrie trie_;
  double unknown_score_ = 0;
  std::vector<Edge> edges_;  // of the word at hand, in the order of their beginnings
  std::vector<double> forward_, backward_;
  std::vector<Best> best_;
};

}  // namespace engine::tokenizer
