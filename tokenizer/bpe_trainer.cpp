#include "tokenizer/bpe_trainer.h"

#include <fmt/core.h>

#include <algorithm>
#include <limits>
#include <queue>
#include <set>

#include "engine/core/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer_json_writer.h"
#include "tokenizer/unicode.h"
#include "tokenizer/vocabulary.h"

namespace engine {
namespace {

using tokenizer::Piece;
using tokenizer::Vocabulary;

// A pair of token ids in one number; sorts by left id, then by right id.
using Pair = uint64_t;
Pair make_pair_key(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}
int32_t left_of(Pair pair) {
  return static_cast<int32_t>(pair >> 32);
}
int32_t right_of(Pair pair) {
  return static_cast<int32_t>(pair & 0xFFFFFFFF);
}

std::string regex_of(const std::string& name) {
  if (name == "gpt2") return tokenizer::kGpt2Pattern;
  if (name == "llama3") return tokenizer::kLlama3Pattern;
  if (name == "qwen2") return tokenizer::kQwen2Pattern;
  return name;
}

// The learning itself: words of token ids with their counts, and where each pair occurs.
class PairMerger {
 public:
  // What a pair of ids may become, given how long a token may be in bytes.
  explicit PairMerger(size_t max_token_length)
      : max_length_(max_token_length ? max_token_length : std::numeric_limits<size_t>::max()) {}

  void add_word(std::vector<int32_t> symbols, uint64_t count) {
    words_.push_back({std::move(symbols), static_cast<int64_t>(count)});
  }

  // `lengths` holds the bytes of every token so far and grows with the merges.
  void count_pairs(const std::vector<size_t>& lengths) {
    lengths_ = &lengths;
    for (uint32_t w = 0; w < words_.size(); ++w) {
      const std::vector<int32_t>& s = words_[w].symbols;
      for (size_t i = 0; i + 1 < s.size(); ++i) change(s[i], s[i + 1], words_[w].count, w);
    }
    queue_new_pairs();
  }

  // The most frequent pair and its count; count 0 when no pair is left.
  std::pair<Pair, uint64_t> best() {
    while (!queue_.empty()) {
      Candidate top = queue_.top();
      const int64_t now = pairs_[top.index].count;
      if (now == top.count) return {top.pair, static_cast<uint64_t>(now)};
      queue_.pop();  // its count went down since it was queued
      if (now > 0) {
        top.count = now;
        queue_.push(top);
      }
    }
    return {0, 0};
  }

  // Replaces the pair of best() by `merged` in all words.
  void merge_best(int32_t merged) {
    const Candidate top = queue_.top();
    queue_.pop();
    const std::vector<uint32_t> words = std::move(pairs_[top.index].words);
    pairs_[top.index].words = {};
    for (const uint32_t word : words) merge_in_word(word, top.pair, merged);
    pairs_[top.index].count = 0;
    queue_new_pairs();
  }

 private:
  struct Word {
    std::vector<int32_t> symbols;
    int64_t count;
  };
  struct PairInfo {
    Pair pair;
    int64_t count = 0;
    std::vector<uint32_t> words;  // where it may occur; may name words that lost it
    bool is_new = false;
  };
  struct Candidate {
    int64_t count;
    Pair pair;
    uint32_t index;
    bool operator<(const Candidate& other) const {
      return count != other.count ? count < other.count : pair > other.pair;
    }
  };

  // A pair came (delta > 0) or went in word `w`. A pair too long to become a token is not counted.
  void change(int32_t left, int32_t right, int64_t delta, uint32_t w) {
    if (delta > 0 && (*lengths_)[left] + (*lengths_)[right] > max_length_) return;
    const uint32_t index = find_or_add(make_pair_key(left, right));
    PairInfo& info = pairs_[index];
    info.count += delta;
    if (delta < 0) return;
    if (info.words.empty() || info.words.back() != w) info.words.push_back(w);
    if (!info.is_new) {
      info.is_new = true;
      new_pairs_.push_back(index);
    }
  }

  void queue_new_pairs() {
    for (const uint32_t index : new_pairs_) {
      PairInfo& info = pairs_[index];
      info.is_new = false;
      if (info.count > 0) queue_.push({info.count, info.pair, index});
    }
    new_pairs_.clear();
  }

  void merge_in_word(uint32_t w, Pair pair, int32_t merged) {
    Word& word = words_[w];
    std::vector<int32_t>& s = word.symbols;
    size_t out = 0;
    for (size_t i = 0; i < s.size(); ++i) {
      if (i + 1 < s.size() && make_pair_key(s[i], s[i + 1]) == pair) {
        if (out > 0) {
          change(s[out - 1], s[i], -word.count, w);
          change(s[out - 1], merged, word.count, w);
        }
        if (i + 2 < s.size()) {
          change(s[i + 1], s[i + 2], -word.count, w);
          change(merged, s[i + 2], word.count, w);
        }
        s[out++] = merged;
        ++i;
      } else {
        s[out++] = s[i];
      }
    }
    s.resize(out);
  }

  uint32_t find_or_add(Pair pair) {
    if ((pairs_.size() + 1) * 2 > slots_.size()) grow();
    uint32_t& slot = slots_[find_slot(pair)];
    if (slot == kFree) {
      slot = static_cast<uint32_t>(pairs_.size());
      pairs_.push_back({.pair = pair, .words = {}});
    }
    return slot;
  }
  size_t find_slot(Pair pair) const {
    const size_t mask = slots_.size() - 1;
    uint64_t hash = pair * 0x9E3779B97F4A7C15u;
    size_t at = (hash ^ hash >> 32) & mask;
    while (slots_[at] != kFree && pairs_[slots_[at]].pair != pair) at = (at + 1) & mask;
    return at;
  }
  void grow() {
    slots_.assign(std::max<size_t>(1024, slots_.size() * 2), kFree);
    for (uint32_t i = 0; i < pairs_.size(); ++i) slots_[find_slot(pairs_[i].pair)] = i;
  }

  static constexpr uint32_t kFree = UINT32_MAX;
  size_t max_length_;
  const std::vector<size_t>* lengths_ = nullptr;
  std::vector<Word> words_;
  std::vector<PairInfo> pairs_;
  std::vector<uint32_t> slots_;  // open addressing into pairs_
  std::vector<uint32_t> new_pairs_;
  std::priority_queue<Candidate> queue_;
};

Error train_error(std::string what) {
  return Error(ExitCode::usage, "TOK-TRAIN", std::move(what));
}

}  // namespace

struct BpeTrainer::State {
  BpeTrainerOptions options;
  std::unique_ptr<tokenizer::PreTokenizer> splitter;
  tokenizer::RegexScratch scratch;
  Vocabulary pieces;  // distinct pieces, numbered as they came
  std::vector<uint64_t> counts;
};

BpeTrainer::BpeTrainer(BpeTrainerOptions options) : state_(std::make_unique<State>()) {
  std::set<std::string> seen;
  for (const std::string& token : options.special_tokens) {
    const auto byte = tokenizer::unspell_bytes(token);
    if (token.empty() || (byte && byte->size() == 1)) {
      throw train_error(fmt::format("\"{}\" cannot be a special token", token))
          .expected("a text of its own, not a single byte");
    }
    if (!seen.insert(token).second) {
      throw train_error(fmt::format("special token \"{}\" is listed twice", token));
    }
  }
  const size_t least = options.special_tokens.size() + 256;
  if (options.vocab_size < least || options.vocab_size > Vocabulary::kMaxId) {
    throw train_error(fmt::format("vocab_size {} is out of range", options.vocab_size))
        .expected(
            fmt::format("{} (special tokens and 256 bytes) to {}", least, Vocabulary::kMaxId));
  }
  state_->splitter = tokenizer::make_split(tokenizer::Regex(regex_of(options.split_pattern)), {});
  state_->options = std::move(options);
}

BpeTrainer::BpeTrainer(BpeTrainer&&) noexcept = default;
BpeTrainer::~BpeTrainer() = default;

void BpeTrainer::add(std::string_view text) {
  const size_t invalid = tokenizer::find_invalid_utf8(text);
  if (invalid != std::string_view::npos) {
    throw Error(ExitCode::data, "TOK-UTF8",
                fmt::format("text is not valid UTF-8 at byte {} of {}", invalid, text.size()))
        .fix("convert the data to UTF-8, e.g. with iconv");
  }
  struct Counter final : tokenizer::PieceSink {
    State* state;
    void piece(Piece piece) override {
      int32_t index = state->pieces.find(piece.text);
      if (index < 0) {
        index = static_cast<int32_t>(state->counts.size());
        state->pieces.add(piece.text, index);
        state->counts.push_back(0);
      }
      ++state->counts[index];
    }
  } counter;
  counter.state = state_.get();
  state_->splitter->split({text, true}, state_->scratch, counter);
}

std::string BpeTrainer::train() const {
  const BpeTrainerOptions& options = state_->options;
  tokenizer::BpeFile file;
  file.style = tokenizer::BpeFile::Style::kByteLevel;
  if (options.split_pattern != "gpt2") file.split_regex = regex_of(options.split_pattern);
  std::vector<size_t> lengths;  // bytes, by id
  for (const std::string& token : options.special_tokens) {
    file.added_tokens.push_back(
        {.id = static_cast<int32_t>(file.vocab.size()), .content = token, .special = true});
    file.vocab.push_back(token);
    lengths.push_back(token.size());
  }
  // Bytes in the order of their characters.
  std::vector<int> bytes(256);
  for (int i = 0; i < 256; ++i) bytes[i] = i;
  std::sort(bytes.begin(), bytes.end(), [](int a, int b) {
    return tokenizer::byte_alphabet()[a] < tokenizer::byte_alphabet()[b];
  });
  int32_t byte_ids[256];
  for (const int byte : bytes) {
    const char raw = static_cast<char>(byte);
    byte_ids[byte] = static_cast<int32_t>(file.vocab.size());
    file.vocab.push_back(tokenizer::spell_bytes(std::string_view(&raw, 1)));
    lengths.push_back(1);
  }

  PairMerger merger(options.max_token_length);
  for (size_t i = 0; i < state_->counts.size(); ++i) {
    std::vector<int32_t> symbols;
    for (const char byte : state_->pieces.token(static_cast<int32_t>(i))) {
      symbols.push_back(byte_ids[static_cast<unsigned char>(byte)]);
    }
    merger.add_word(std::move(symbols), state_->counts[i]);
  }
  merger.count_pairs(lengths);

  Vocabulary known;  // different merges may build the same token
  for (size_t id = 0; id < file.vocab.size(); ++id) {
    known.add(file.vocab[id], static_cast<int32_t>(id));
  }
  std::set<Pair> merged_before;
  while (file.vocab.size() < options.vocab_size) {
    const auto [pair, count] = merger.best();
    if (count == 0 || count < options.min_frequency) break;
    const std::string& left = file.vocab[left_of(pair)];
    const std::string& right = file.vocab[right_of(pair)];
    const std::string token = left + right;
    int32_t id = known.find(token);
    if (merged_before.insert(pair).second) file.merges.emplace_back(left, right);
    if (id < 0) {
      id = static_cast<int32_t>(file.vocab.size());
      lengths.push_back(lengths[left_of(pair)] + lengths[right_of(pair)]);
      known.add(token, id);
      file.vocab.push_back(token);
    }
    merger.merge_best(id);
  }
  return tokenizer::write_tokenizer_json(file);
}

std::string train_byte_level_bpe(const std::function<std::optional<std::string_view>()>& next_text,
                                 const BpeTrainerOptions& options) {
  BpeTrainer trainer(options);
  while (const auto text = next_text()) trainer.add(*text);
  return trainer.train();
}

}  // namespace engine
