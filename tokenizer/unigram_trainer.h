// Learns a unigram vocabulary from texts, as sentencepiece does.
//
// Kudo, "Subword Regularization" (2018), section 3.2: start from many frequent substrings; estimate
// their probabilities by expectation maximisation over all ways to cut the words; drop those whose
// loss costs the likelihood least; repeat until few enough are left. The M step is the variational
// one of sentencepiece (digamma of the counts), which drives rare pieces out.
//
// Texts are cut before spaces and around line breaks. Characters too rare to be pieces (never those
// of ASCII) are spelled by 256 byte tokens, so that every text has ids and comes back the same. The
// result depends on the multiset of words alone, not on the order of the texts.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace engine {

struct UnigramTrainerOptions {
  // All tokens: special tokens (ids from 0), <unk>, 256 bytes, pieces. Fewer come out when the
  // texts do not hold enough pieces.
  size_t vocab_size = 32000;
  // Longest piece in characters.
  size_t max_piece_length = 16;
  // The most frequent characters that together make up this share of the texts become pieces.
  double character_coverage = 0.9995;
  std::vector<std::string> special_tokens = {"<|endoftext|>"};
  // Candidates to begin with, and the share of pieces that a round of pruning leaves.
  size_t num_seeds = 1000000;
  double shrinking_factor = 0.75;
};

class UnigramTrainer {
 public:
  // Throws Error (exit code `usage`, TOK-TRAIN) for options that contradict each other.
  explicit UnigramTrainer(UnigramTrainerOptions options);
  UnigramTrainer(UnigramTrainer&&) noexcept;
  ~UnigramTrainer();

  // Counts the words of one text, e.g. a document. Throws TOK-UTF8 as Tokenizer::encode does.
  void add(std::string_view text);

  // The tokenizer.json of the vocabulary. Throws TOK-TRAIN when the characters alone are more than
  // `vocab_size` has room for.
  std::string train() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace engine
