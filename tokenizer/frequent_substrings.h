// The substrings of a list of words that could be worth a piece of their own.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace engine::tokenizer {

struct CountedWord {
  std::string_view text;  // valid UTF-8, not empty
  uint64_t count = 0;
};

struct CountedSubstring {
  std::string_view text;  // in one of the words
  uint64_t count = 0;     // occurrences in all words, with the counts of the words
};

// Substrings of 2 to `max_characters` characters that occur twice or more and cannot be made
// longer, within that limit, without occurring less often: the inner nodes of the suffix tree. The
// `limit` with the largest count times length, the largest first.
std::vector<CountedSubstring> find_frequent_substrings(const std::vector<CountedWord>& words,
                                                       size_t max_characters, size_t limit);

}  // namespace engine::tokenizer
