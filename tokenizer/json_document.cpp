#include "tokenizer/json_document.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "engine/core/error.h"
#include "tokenizer/json_scanner.h"
#include "tokenizer/unicode.h"

namespace engine::tokenizer {
namespace {

using nlohmann::json;

// Deeper nesting is no tokenizer; refusing it keeps every later walk shallow.
constexpr size_t kMaxDepth = 64;

// 10^n for n from 0 to 308, rounded to the nearest double.
double power_of_ten(int64_t n) {
  static const std::array<double, 309> kPowers = [] {
    std::array<double, 309> powers{};
    for (size_t i = 0; i < powers.size(); ++i) {
      const std::string text = fmt::format("1e{}", i);
      std::from_chars(text.data(), text.data() + text.size(), powers[i]);
    }
    return powers;
  }();
  return kPowers[static_cast<size_t>(std::clamp<int64_t>(n, 0, 308))];
}

// A real number as Rust's serde_json reads it: digits as an integer of 64 bits, then one product or
// quotient with a power of ten. Its last bit may be wrong, and decides ties between segmentations.
double read_as_serde(std::string_view text) {
  bool negative = false, in_fraction = false, overflown = false;
  uint64_t digits = 0;
  int64_t exponent = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '-') {
      negative = true;
    } else if (c == '.') {
      in_fraction = true;
    } else if (c == 'e' || c == 'E') {
      const size_t sign = text[at + 1] == '+' ? 2 : 1;
      int64_t written = 0;
      std::from_chars(text.data() + at + sign, text.data() + text.size(), written);
      exponent += written;
      break;
    } else {
      const uint64_t digit = static_cast<uint64_t>(c - '0');
      overflown = overflown || digits > (UINT64_MAX - digit) / 10;
      if (!overflown) digits = digits * 10 + digit;
      if (overflown != in_fraction) exponent += overflown ? 1 : -1;
    }
  }
  double value = static_cast<double>(digits);
  while (exponent < -308 && value != 0) {
    value /= 1e308;
    exponent += 308;
  }
  const double power = power_of_ten(std::abs(exponent));
  value = exponent >= 0 ? value * power : value / power;
  return negative ? -value : value;
}

class Reader final : public JsonEvents {
 public:
  // `lists` may be null: everything becomes a tree. With `root_is_vocab` the whole text is one
  // vocabulary object.
  Reader(const std::string& file, json* root, ModelLists* lists, bool root_is_vocab)
      : file_(file), root_(root), lists_(lists), root_is_vocab_(root_is_vocab) {}

  void null() override { value(json(nullptr)); }
  void boolean(bool v) override { value(json(v)); }
  void real(double v, std::string_view text) override {
    if (place_ == Place::kScoredToken) return score(read_as_serde(text));
    value(json(v));
  }
  void integer(int64_t v) override {
    if (place_ == Place::kVocab) return vocab_id(v);
    if (place_ == Place::kScoredToken) return score(static_cast<double>(v));
    value(json(v));
  }
  void string(std::string_view v) override {
    switch (place_) {
      case Place::kMerges:
        return merge_line(v);
      case Place::kMergePair:
        return merge_part(v);
      case Place::kScoredToken:
        return scored_text(v);
      default:
        value(json(v));
    }
  }

  void start_object() override {
    if (root_is_vocab_ && stack_.empty() && place_ == Place::kTree) return enter_vocab();
    if (at_model_field("vocab")) return enter_vocab();
    open(json::object());
  }
  void key(std::string_view key) override {
    if (place_ == Place::kVocab) {
      token_offset_ = static_cast<uint32_t>(lists_->text.size());
      lists_->text += key;
    } else {
      keys_.back() = key;
    }
  }
  void end_object() override {
    if (place_ == Place::kVocab) {
      place_ = Place::kTree;
    } else {
      close();
    }
  }

  void start_array() override {
    if (at_model_field("merges")) {
      enter_list(&lists_->has_merges);
      place_ = Place::kMerges;
    } else if (at_model_field("vocab")) {
      enter_list(&lists_->has_vocab);
      lists_->has_scores = true;
      place_ = Place::kScoredVocab;
    } else if (place_ == Place::kMerges) {
      place_ = Place::kMergePair;
      pair_parts_ = 0;
    } else if (place_ == Place::kScoredVocab) {
      place_ = Place::kScoredToken;
      pair_parts_ = 0;
    } else {
      open(json::array());
    }
  }
  void end_array() override {
    switch (place_) {
      case Place::kMergePair:
        if (pair_parts_ != 2) bad_merge(fmt::format("an array of {} strings", pair_parts_));
        place_ = Place::kMerges;
        return;
      case Place::kScoredToken:
        if (pair_parts_ != 2) bad_scored_token(fmt::format("an array of {} values", pair_parts_));
        place_ = Place::kScoredVocab;
        return;
      case Place::kMerges:
      case Place::kScoredVocab:
        place_ = Place::kTree;
        return;
      default:
        close();
    }
  }

 private:
  enum class Place { kTree, kVocab, kScoredVocab, kScoredToken, kMerges, kMergePair };

  bool at_model_field(std::string_view name) const {
    return lists_ && !root_is_vocab_ && place_ == Place::kTree && stack_.size() == 2 &&
           keys_[0] == "model" && keys_[1] == name && stack_[0]->is_object() &&
           stack_[1]->is_object();
  }

  void enter_list(bool* entered) {
    if (*entered) duplicate_key(keys_.empty() ? "vocab" : keys_.back());
    *entered = true;
  }
  void enter_vocab() {
    enter_list(&lists_->has_vocab);
    place_ = Place::kVocab;
  }

  [[noreturn]] void duplicate_key(std::string_view key) const {
    throw Error(ExitCode::checkpoint, "TOK-DUPLICATE",
                fmt::format("\"{}\" stands twice in one object", excerpt(key)))
        .with("file", file_);
  }

  Error malformed(std::string what) const {
    return Error(ExitCode::checkpoint, "TOK-MALFORMED", std::move(what)).with("file", file_);
  }

  std::string_view current_token() const {
    return excerpt(std::string_view(lists_->text).substr(token_offset_));
  }

  void add_token(int32_t id) {
    const uint32_t length = static_cast<uint32_t>(lists_->text.size()) - token_offset_;
    lists_->vocab.push_back({token_offset_, length, id});
  }
  void vocab_id(int64_t id) {
    if (id < 0 || id > Vocabulary::kMaxId) {
      throw malformed(fmt::format("id of token \"{}\" is out of range", current_token()))
          .expected(fmt::format("0 to {}", Vocabulary::kMaxId))
          .found(fmt::format("{}", id));
    }
    add_token(static_cast<int32_t>(id));
  }

  [[noreturn]] void bad_scored_token(std::string found) const {
    throw malformed(
        fmt::format("entry {} of model.vocab is no token with a score", lists_->vocab.size()))
        .expected("[\"token\", score]")
        .found(std::move(found));
  }
  void scored_text(std::string_view text) {
    if (pair_parts_++ != 0) bad_scored_token(fmt::format("\"{}\" as score", excerpt(text)));
    token_offset_ = static_cast<uint32_t>(lists_->text.size());
    lists_->text += text;
  }
  void score(double score) {
    if (pair_parts_++ != 1) bad_scored_token(fmt::format("the number {}", score));
    if (lists_->vocab.size() > static_cast<size_t>(Vocabulary::kMaxId)) {
      throw malformed("model.vocab is too long")
          .expected(fmt::format("at most {} entries", Vocabulary::kMaxId + 1));
    }
    add_token(static_cast<int32_t>(lists_->vocab.size()));
    lists_->scores.push_back(score);
  }

  [[noreturn]] void bad_merge(std::string found) const {
    throw Error(ExitCode::checkpoint, "TOK-MERGES",
                fmt::format("merge {} is not two tokens", lists_->merges.size()))
        .with("file", file_)
        .expected("\"left right\" or [\"left\", \"right\"]")
        .found(std::move(found));
  }
  void merge_line(std::string_view line) {
    if (line.starts_with("#version")) return;
    const size_t space = line.find(' ');
    if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
      bad_merge(fmt::format("\"{}\"", excerpt(line)));
    }
    lists_->add_merge(line.substr(0, space), line.substr(space + 1));
  }
  void merge_part(std::string_view part) {
    switch (pair_parts_++) {
      case 0:
        left_ = part;
        return;
      case 1:
        return lists_->add_merge(left_, part);
      default:
        bad_merge("an array of three strings");
    }
  }

  // Puts a finished value into the innermost container.
  void value(json&& v) {
    if (place_ != Place::kTree) refuse_outside_tree(v.dump());
    insert(std::move(v));
  }
  [[noreturn]] void refuse_outside_tree(std::string found) const {
    switch (place_) {
      case Place::kTree:
        break;
      case Place::kVocab:
        throw malformed(fmt::format("id of token \"{}\" is no integer", current_token()))
            .found(std::move(found));
      case Place::kScoredVocab:
      case Place::kScoredToken:
        bad_scored_token(std::move(found));
      case Place::kMerges:
      case Place::kMergePair:
        bad_merge(std::move(found));
    }
    throw std::logic_error("a value of the tree is never out of place");
  }
  json* insert(json&& v) {
    if (stack_.empty()) {
      *root_ = std::move(v);
      return root_;
    }
    json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(v));
      return &parent.back();
    }
    // In other files the last one wins, as in Python.
    if (lists_ && parent.contains(keys_.back())) duplicate_key(keys_.back());
    json& slot = parent[keys_.back()];
    slot = std::move(v);
    return &slot;
  }
  void open(json&& container) {
    if (place_ != Place::kTree) refuse_outside_tree("a nested value");
    if (stack_.size() == kMaxDepth) {
      throw malformed(fmt::format("{} is nested deeper than {} levels", file_, kMaxDepth));
    }
    stack_.push_back(insert(std::move(container)));
    keys_.emplace_back();
  }
  void close() {
    stack_.pop_back();
    keys_.pop_back();
  }

  const std::string& file_;
  json* root_;
  ModelLists* lists_;
  bool root_is_vocab_;
  Place place_ = Place::kTree;
  std::vector<json*> stack_;       // open containers
  std::vector<std::string> keys_;  // the current key of each
  uint32_t token_offset_ = 0;
  size_t pair_parts_ = 0;  // of the pair being read
  std::string left_;
};

void run(std::string_view text, Reader& reader, const std::string& file) {
  // Offsets into a file are 32 bits wide; the largest known tokenizer.json has 40 MB.
  constexpr size_t kMaxBytes = size_t{1} << 30;
  if (text.size() > kMaxBytes) {
    throw Error(ExitCode::checkpoint, "TOK-MALFORMED", fmt::format("{} is too large", file))
        .expected(fmt::format("at most {} bytes", kMaxBytes))
        .found(fmt::format("{} bytes", text.size()));
  }
  scan_json(text, file, reader);
}

}  // namespace

void ModelLists::add_merge(std::string_view left, std::string_view right) {
  merges.push_back({static_cast<uint32_t>(text.size()), static_cast<uint32_t>(left.size()),
                    static_cast<uint32_t>(right.size())});
  text += left;
  text += right;
}

void parse_tokenizer_json(std::string_view text, const std::string& file, json* root,
                          ModelLists* lists) {
  Reader reader(file, root, lists, /*root_is_vocab=*/false);
  run(text, reader, file);
}

void parse_vocab_json(std::string_view text, const std::string& file, ModelLists* lists) {
  json unused;
  Reader reader(file, &unused, lists, /*root_is_vocab=*/true);
  run(text, reader, file);
  if (!lists->has_vocab) {
    throw Error(ExitCode::checkpoint, "TOK-MALFORMED", fmt::format("{} is no vocabulary", file))
        .expected("an object {\"token\": id, ...}");
  }
}

json parse_json(std::string_view text, const std::string& file) {
  json root;
  Reader reader(file, &root, nullptr, /*root_is_vocab=*/false);
  run(text, reader, file);
  return root;
}

Vocabulary make_vocabulary(const ModelLists& lists, const std::string& file) {
  Vocabulary vocabulary;
  vocabulary.reserve(lists.vocab.size(), lists.text.size());
  for (const ModelLists::Token& entry : lists.vocab) {
    const std::string_view token = lists.token(entry);
    switch (vocabulary.add(token, entry.id)) {
      case Vocabulary::Added::kYes:
        break;
      case Vocabulary::Added::kDuplicateToken:
        throw Error(ExitCode::checkpoint, "TOK-DUPLICATE",
                    fmt::format("token \"{}\" stands twice in the vocabulary", token))
            .with("file", file)
            .found(fmt::format("ids {} and {}", vocabulary.find(token), entry.id));
      case Vocabulary::Added::kDuplicateId:
        throw Error(ExitCode::checkpoint, "TOK-DUPLICATE",
                    fmt::format("id {} belongs to two tokens", entry.id))
            .with("file", file)
            .found(fmt::format("\"{}\" and \"{}\"", vocabulary.token(entry.id), token));
    }
  }
  return vocabulary;
}

}  // namespace engine::tokenizer
