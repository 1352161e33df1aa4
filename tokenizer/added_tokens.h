// Tokens that are found in the text before anything else looks at it: special tokens such as
// <|eot_id|>, and words added after training.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/normalizer.h"

namespace engine::tokenizer {

// The fields of "added_tokens" in tokenizer.json.
struct AddedToken {
  int32_t id = -1;
  std::string content;
  bool special = false;      // dropped by decode(skip_special_tokens)
  bool single_word = false;  // matches only between non-word characters
  bool lstrip = false;       // swallows white space on its left
  bool rstrip = false;       // swallows white space on its right
  bool normalized = false;   // matched in normalized text, against its normal form
};

// A stretch of text: a found token with the white space it swallows, or text between tokens (id <
// 0).
struct Segment {
  int32_t id = -1;
  std::string_view text;
};

// Finds, from left to right, the longest of a set of strings at the first place where any begins.
class LongestMatcher {
 public:
  void add(std::string pattern, int32_t value);
  void build();
  bool empty() const { return patterns_.empty(); }
  // The first match at or after `from`; false if there is none.
  bool search(std::string_view text, size_t from, size_t* begin, size_t* end, int32_t* value) const;

 private:
  struct Pattern {
    std::string text;
    int32_t value;
  };
  std::vector<Pattern> patterns_;  // sorted by text
  struct Range {
    uint32_t begin = 0, end = 0;
  };
  std::array<Range, 256> by_first_byte_{};
};

class AddedTokens {
 public:
  // `tokens` have distinct contents and ids. `normalizer` may be null.
  void set(std::vector<AddedToken> tokens, const Normalizer* normalizer);

  // Makes the token of that content special; one that is not there is added with `id`, unless that
  // is negative.
  void declare_special(const std::string& content, int32_t id);

  const std::vector<AddedToken>& tokens() const { return tokens_; }
  // null when `id` is no added token.
  const AddedToken* find(int32_t id) const;
  const AddedToken* find(std::string_view content) const;
  // What a decoder is given for `id`: the normal form of a normalized token.
  const std::string& decoded_form(const AddedToken& token) const;

  bool has_normalized() const { return !normalized_.empty(); }
  // Cuts raw (or normalized) text at the tokens that are matched there. With `parse_special` false
  // special tokens stay text.
  void split(std::string_view text, bool match_normalized, bool parse_special,
             std::vector<Segment>* segments) const;

 private:
  std::vector<AddedToken> tokens_;
  std::vector<std::string> normal_forms_;  // of tokens_, same order
  std::unordered_map<int32_t, size_t> by_id_;
  std::unordered_map<std::string, size_t> by_content_;
  LongestMatcher raw_;
  LongestMatcher normalized_;
};

}  // namespace engine::tokenizer
