#include "tokenizer/json_document.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "engine/core/error.h"
#include "tokenizer/unicode.h"

namespace engine::tokenizer {
namespace {

using nlohmann::json;

// Deeper nesting is no tokenizer; refusing it keeps every later walk shallow.
constexpr size_t kMaxDepth = 64;

class Reader final : public nlohmann::json_sax<json> {
 public:
  // `lists` may be null: everything becomes a tree. With `root_is_vocab` the whole text is one
  // vocabulary object.
  Reader(const std::string& file, json* root, BpeLists* lists, bool root_is_vocab)
      : file_(file), root_(root), lists_(lists), root_is_vocab_(root_is_vocab) {}

  bool null() override { return value(json(nullptr)); }
  bool boolean(bool v) override { return value(json(v)); }
  bool number_float(double v, const std::string&) override { return value(json(v)); }
  bool binary(json::binary_t&) override { return false; }
  bool number_integer(int64_t v) override {
    return place_ == Place::kVocab ? vocab_id(v) : value(json(v));
  }
  bool number_unsigned(uint64_t v) override {
    if (place_ != Place::kVocab) return value(json(v));
    return vocab_id(v > INT64_MAX ? INT64_MAX : static_cast<int64_t>(v));
  }

  bool string(std::string& v) override {
    if (place_ == Place::kMerges) return merge_line(v);
    if (place_ == Place::kMergePair) return merge_part(v);
    return value(json(std::move(v)));
  }

  bool start_object(size_t) override {
    if (root_is_vocab_ && stack_.empty() && place_ == Place::kTree) return enter_vocab();
    if (at_model_field("vocab")) return enter_vocab();
    return open(json::object());
  }
  bool key(std::string& key) override {
    if (place_ == Place::kVocab) {
      token_offset_ = static_cast<uint32_t>(lists_->text.size());
      lists_->text += key;
    } else {
      keys_.back() = std::move(key);
    }
    return true;
  }
  bool end_object() override {
    if (place_ == Place::kVocab) {
      place_ = Place::kTree;
      return true;
    }
    return close();
  }

  bool start_array(size_t) override {
    if (at_model_field("merges")) {
      place_ = Place::kMerges;
      lists_->has_merges = true;
      return true;
    }
    if (place_ == Place::kMerges) {
      place_ = Place::kMergePair;
      pair_.clear();
      return true;
    }
    return open(json::array());
  }
  bool end_array() override {
    if (place_ == Place::kMergePair) {
      if (pair_.size() != 2) bad_merge(fmt::format("an array of {} strings", pair_.size()));
      lists_->add_merge(pair_[0], pair_[1]);
      place_ = Place::kMerges;
      return true;
    }
    if (place_ == Place::kMerges) {
      place_ = Place::kTree;
      return true;
    }
    return close();
  }

  bool parse_error(size_t position, const std::string&, const json::exception& error) override {
    std::string reason = error.what();
    const size_t colon = reason.rfind("; expected");
    if (colon != std::string::npos) reason.resize(colon);
    throw Error(ExitCode::checkpoint, "TOK-JSON", fmt::format("{} is not valid JSON", file_))
        .where(fmt::format("byte {}", position))
        .found(reason)
        .why("interrupted download, or edited by hand")
        .fix("download the file again");
  }

 private:
  enum class Place { kTree, kVocab, kMerges, kMergePair };

  bool at_model_field(std::string_view name) const {
    return lists_ && !root_is_vocab_ && place_ == Place::kTree && stack_.size() == 2 &&
           keys_[0] == "model" && keys_[1] == name && stack_[0]->is_object() &&
           stack_[1]->is_object();
  }

  bool enter_vocab() {
    place_ = Place::kVocab;
    lists_->has_vocab = true;
    return true;
  }

  Error malformed(std::string what) const {
    return Error(ExitCode::checkpoint, "TOK-MALFORMED", std::move(what)).with("file", file_);
  }

  std::string_view current_token() const {
    return excerpt(std::string_view(lists_->text).substr(token_offset_));
  }

  bool vocab_id(int64_t id) {
    const uint32_t length = static_cast<uint32_t>(lists_->text.size()) - token_offset_;
    if (id < 0 || id > Vocabulary::kMaxId) {
      throw malformed(fmt::format("id of token \"{}\" is out of range", current_token()))
          .expected(fmt::format("0 to {}", Vocabulary::kMaxId))
          .found(fmt::format("{}", id));
    }
    lists_->vocab.push_back({token_offset_, length, static_cast<int32_t>(id)});
    return true;
  }

  [[noreturn]] void bad_merge(std::string found) const {
    throw Error(ExitCode::checkpoint, "TOK-MERGES",
                fmt::format("merge {} is not two tokens", lists_->merges.size()))
        .with("file", file_)
        .expected("\"left right\" or [\"left\", \"right\"]")
        .found(std::move(found));
  }
  bool merge_line(const std::string& line) {
    if (line.starts_with("#version")) return true;
    const size_t space = line.find(' ');
    if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos) {
      bad_merge(fmt::format("\"{}\"", line));
    }
    lists_->add_merge(std::string_view(line).substr(0, space),
                      std::string_view(line).substr(space + 1));
    return true;
  }
  bool merge_part(std::string& part) {
    pair_.push_back(std::move(part));
    return true;
  }

  // Puts a finished value into the innermost container.
  bool value(json&& v) {
    if (place_ == Place::kVocab) {
      throw malformed(fmt::format("id of token \"{}\" is no integer", current_token()))
          .found(v.dump());
    }
    if (place_ != Place::kTree) bad_merge(v.dump());
    insert(std::move(v));
    return true;
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
    json& slot = parent[keys_.back()];
    slot = std::move(v);
    return &slot;
  }
  bool open(json&& container) {
    if (place_ == Place::kVocab) {
      throw malformed(fmt::format("id of token \"{}\" is no integer", current_token()));
    }
    if (place_ != Place::kTree) bad_merge("a nested value");
    if (stack_.size() == kMaxDepth) {
      throw malformed(fmt::format("{} is nested deeper than {} levels", file_, kMaxDepth));
    }
    stack_.push_back(insert(std::move(container)));
    keys_.emplace_back();
    return true;
  }
  bool close() {
    stack_.pop_back();
    keys_.pop_back();
    return true;
  }

  const std::string& file_;
  json* root_;
  BpeLists* lists_;
  bool root_is_vocab_;
  Place place_ = Place::kTree;
  std::vector<json*> stack_;       // open containers
  std::vector<std::string> keys_;  // the current key of each
  uint32_t token_offset_ = 0;
  std::vector<std::string> pair_;
};

void run(std::string_view text, Reader& reader, const std::string& file) {
  // Offsets into a file are 32 bits wide; the largest known tokenizer.json has 40 MB.
  constexpr size_t kMaxBytes = size_t{1} << 30;
  if (text.size() > kMaxBytes) {
    throw Error(ExitCode::checkpoint, "TOK-MALFORMED", fmt::format("{} is too large", file))
        .expected(fmt::format("at most {} bytes", kMaxBytes))
        .found(fmt::format("{} bytes", text.size()));
  }
  json::sax_parse(text.begin(), text.end(), &reader);
}

}  // namespace

void BpeLists::add_merge(std::string_view left, std::string_view right) {
  merges.push_back({static_cast<uint32_t>(text.size()), static_cast<uint32_t>(left.size()),
                    static_cast<uint32_t>(right.size())});
  text += left;
  text += right;
}

void parse_tokenizer_json(std::string_view text, const std::string& file, json* root,
                          BpeLists* lists) {
  Reader reader(file, root, lists, /*root_is_vocab=*/false);
  run(text, reader, file);
}

void parse_vocab_json(std::string_view text, const std::string& file, BpeLists* lists) {
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

Vocabulary make_vocabulary(const BpeLists& lists, const std::string& file) {
  Vocabulary vocabulary;
  vocabulary.reserve(lists.vocab.size(), lists.text.size());
  for (const BpeLists::Token& entry : lists.vocab) {
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
