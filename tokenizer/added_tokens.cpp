#include "tokenizer/added_tokens.h"

#include <algorithm>

#include "tokenizer/unicode.h"

namespace engine::tokenizer {
namespace {

unsigned char byte_at(std::string_view text, size_t at) {
  return static_cast<unsigned char>(text[at]);
}

}  // namespace

void LongestMatcher::add(std::string pattern, int32_t value) {
  patterns_.push_back({std::move(pattern), value});
}

void LongestMatcher::build() {
  std::stable_sort(patterns_.begin(), patterns_.end(),
                   [](const Pattern& a, const Pattern& b) { return a.text < b.text; });
  by_first_byte_ = {};
  for (uint32_t i = 0; i < patterns_.size(); ++i) {
    Range& range = by_first_byte_[byte_at(patterns_[i].text, 0)];
    if (range.begin == range.end) range.begin = i;
    range.end = i + 1;
  }
}

bool LongestMatcher::search(std::string_view text, size_t from, size_t* begin, size_t* end,
                            int32_t* value) const {
  for (size_t at = from; at < text.size(); ++at) {
    Range range = by_first_byte_[byte_at(text, at)];
    if (range.begin == range.end) continue;
    // Narrow the sorted range byte by byte; a pattern that ends here sorts first in it.
    const Pattern* longest = nullptr;
    for (size_t depth = 1; range.begin < range.end; ++depth) {
      if (patterns_[range.begin].text.size() == depth) {
        longest = &patterns_[range.begin];
        while (range.begin < range.end && patterns_[range.begin].text.size() == depth) {
          ++range.begin;
        }
      }
      if (at + depth == text.size()) break;
      const unsigned char next = byte_at(text, at + depth);
      const auto first = patterns_.begin() + range.begin;
      const auto last = patterns_.begin() + range.end;
      const auto low = std::partition_point(
          first, last, [&](const Pattern& p) { return byte_at(p.text, depth) < next; });
      const auto high = std::partition_point(
          low, last, [&](const Pattern& p) { return byte_at(p.text, depth) <= next; });
      range = {static_cast<uint32_t>(low - patterns_.begin()),
               static_cast<uint32_t>(high - patterns_.begin())};
    }
    if (longest) {
      *begin = at;
      *end = at + longest->text.size();
      *value = longest->value;
      return true;
    }
  }
  return false;
}

void AddedTokens::set(std::vector<AddedToken> tokens, const Normalizer* normalizer) {
  tokens_ = std::move(tokens);
  normal_forms_.clear();
  by_id_.clear();
  by_content_.clear();
  raw_ = {};
  normalized_ = {};
  RegexScratch scratch;
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const AddedToken& token = tokens_[i];
    by_id_.emplace(token.id, i);
    by_content_.emplace(token.content, i);
    std::string form = token.content;
    if (token.normalized && normalizer) {
      std::string changed;
      if (normalizer->normalize(token.content, scratch, &changed)) form = std::move(changed);
    }
    LongestMatcher& matcher = token.normalized ? normalized_ : raw_;
    if (!form.empty()) matcher.add(form, static_cast<int32_t>(i));
    normal_forms_.push_back(std::move(form));
  }
  raw_.build();
  normalized_.build();
}

void AddedTokens::declare_special(const std::string& content, int32_t id) {
  const auto known = by_content_.find(content);
  if (known != by_content_.end()) {
    tokens_[known->second].special = true;
    return;
  }
  if (id < 0) return;
  const size_t index = tokens_.size();
  tokens_.push_back({.id = id, .content = content, .special = true});
  normal_forms_.push_back(content);
  by_id_.emplace(id, index);
  by_content_.emplace(content, index);
  raw_.add(content, static_cast<int32_t>(index));
  raw_.build();
}

const AddedToken* AddedTokens::find(int32_t id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &tokens_[found->second];
}

const AddedToken* AddedTokens::find(std::string_view content) const {
  const auto found = by_content_.find(std::string(content));
  return found == by_content_.end() ? nullptr : &tokens_[found->second];
}

const std::string& AddedTokens::decoded_form(const AddedToken& token) const {
  return normal_forms_[&token - tokens_.data()];
}

void AddedTokens::split(std::string_view text, bool match_normalized, bool parse_special,
                        std::vector<Segment>* segments) const {
  const LongestMatcher& matcher = match_normalized ? normalized_ : raw_;
  size_t done = 0;  // everything before it is in `segments`
  size_t from = 0;
  size_t begin = 0, end = 0;
  int32_t index = 0;
  while (!matcher.empty() && matcher.search(text, from, &begin, &end, &index)) {
    from = end;
    const AddedToken& token = tokens_[index];
    if (token.special && !parse_special) continue;
    if (token.single_word) {
      const bool word_before =
          begin > 0 && is_word_character(decode_code_point_before(text, begin).value);
      const bool word_after =
          end < text.size() && is_word_character(decode_code_point(text, end).value);
      if (word_before || word_after) continue;
    }
    if (token.lstrip) {
      while (begin > done) {
        const CodePoint c = decode_code_point_before(text, begin);
        if (!is_white_space(c.value)) break;
        begin -= c.length;
      }
      begin = std::max(begin, done);
    }
    if (token.rstrip) {
      while (end < text.size()) {
        const CodePoint c = decode_code_point(text, end);
        if (!is_white_space(c.value)) break;
        end += c.length;
      }
    }
    // The token before has swallowed all of this one, which is white space.
    if (begin >= end) continue;
    if (done < begin) segments->push_back({-1, text.substr(done, begin - done)});
    segments->push_back({token.id, text.substr(begin, end - begin)});
    done = end;
  }
  if (done < text.size()) segments->push_back({-1, text.substr(done)});
}

}  // namespace engine::tokenizer
