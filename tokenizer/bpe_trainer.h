// Learns a byte-level BPE vocabulary from texts.
//
// Sennrich, Haddow, Birch, "Neural Machine Translation of Rare Words with Subword Units" (2016):
// start from single bytes and turn the most frequent neighbouring pair into a new token, again and
// again. Texts are first cut by a splitting pattern; equal pieces are counted once. Of equally
// frequent pairs the one with the smaller ids is taken, so the result depends on the multiset of
// pieces alone, not on the order of the texts. Vocabularies agree with those of Hugging Face
// tokenizers given the same pieces, except where two ways to build one token compete.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace engine {

struct BpeTrainerOptions {
  // All tokens: special tokens (ids from 0), 256 bytes, merges. Fewer come out when the texts do
  // not hold enough pairs of `min_frequency`.
  size_t vocab_size = 32000;
  uint64_t min_frequency = 2;
  // Longest token in bytes; 0 = no limit.
  size_t max_token_length = 0;
  std::vector<std::string> special_tokens = {"<|endoftext|>"};
  // "gpt2", "llama3", "qwen2", or a regular expression of your own.
  std::string split_pattern = "gpt2";
};

class BpeTrainer {
 public:
  // Throws Error (exit code `usage`, TOK-TRAIN) for options that contradict each other.
  explicit BpeTrainer(BpeTrainerOptions options);
  BpeTrainer(BpeTrainer&&) noexcept;
  ~BpeTrainer();

  // Counts the pieces of one text, e.g. a document. Throws TOK-UTF8 as Tokenizer::encode does.
  void add(std::string_view text);

  // The tokenizer.json of the vocabulary.
  std::string train() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// add()s what `next_text` returns until it returns nothing, and trains.
std::string train_byte_level_bpe(const std::function<std::optional<std::string_view>()>& next_text,
                                 const BpeTrainerOptions& options);

}  // namespace engine
