#include "tokenizer/frequent_substrings.h"

#include <algorithm>

#include "tokenizer/unicode.h"

namespace engine::tokenizer {
namespace {

// What begins at a character of a word, up to the longest piece, and how often it does.
using Suffix = CountedSubstring;

// Distinct, in order.
std::vector<Suffix> sorted_suffixes(const std::vector<CountedWord>& words, size_t max_characters) {
  std::vector<Suffix> suffixes;
  std::vector<size_t> starts;
  for (const CountedWord& word : words) {
    starts.clear();
    for (size_t at = 0; at < word.text.size(); at += character_length(word.text, at)) {
      starts.push_back(at);
    }
    starts.push_back(word.text.size());
    for (size_t i = 0; i + 1 < starts.size(); ++i) {
      const size_t end = starts[std::min(i + max_characters, starts.size() - 1)];
      suffixes.push_back({word.text.substr(starts[i], end - starts[i]), word.count});
    }
  }
  std::sort(suffixes.begin(), suffixes.end(),
            [](const Suffix& a, const Suffix& b) { return a.text < b.text; });
  size_t kept = 0;
  for (const Suffix& suffix : suffixes) {
    if (kept > 0 && suffixes[kept - 1].text == suffix.text) {
      suffixes[kept - 1].count += suffix.count;
    } else {
      suffixes[kept++] = suffix;
    }
  }
  suffixes.resize(kept);
  return suffixes;
}

// Bytes of the longest common prefix, whole characters only.
size_t common_prefix(std::string_view a, std::string_view b) {
  const size_t limit = std::min(a.size(), b.size());
  size_t length = 0;
  while (length < limit && a[length] == b[length]) ++length;
  while (length > 0 && length < a.size() &&
         (static_cast<unsigned char>(a[length]) & 0xC0) == 0x80) {
    --length;
  }
  return length;
}

size_t count_characters(std::string_view text) {
  size_t count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return count;
}

}  // namespace

std::vector<CountedSubstring> find_frequent_substrings(const std::vector<CountedWord>& words,
                                                       size_t max_characters, size_t limit) {
  const std::vector<Suffix> suffixes = sorted_suffixes(words, max_characters);
  struct Scored {
    CountedSubstring substring;
    uint64_t score;
  };
  std::vector<Scored> found;
  const auto better = [](const Scored& a, const Scored& b) {
    return a.score != b.score ? a.score > b.score : a.substring.text < b.substring.text;
  };
  const auto keep_best = [&] {
    if (found.size() > limit) {
      std::nth_element(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(limit),
                       found.end(), better);
      found.resize(limit);
    }
  };
  const auto add = [&](std::string_view text, uint64_t count) {
    const size_t characters = count_characters(text);
    if (characters < 2 || count < 2) return;
    if (found.size() >= limit * 2 + 1024) keep_best();
    found.push_back({{text, count}, count * characters});
  };

  // Prefixes that the suffixes at hand have in common, each longer than the one before it; a count
  // goes to the next shorter one when no further suffix has the prefix.
  std::vector<CountedSubstring> open;
  const auto close_down_to = [&](size_t common) {
    while (!open.empty() && open.back().text.size() > common) {
      const CountedSubstring closed = open.back();
      open.pop_back();
      add(closed.text, closed.count);
      if (!open.empty() && open.back().text.size() >= common) {
        open.back().count += closed.count;
      } else if (common > 0) {
        open.push_back({closed.text.substr(0, common), closed.count});
      }
    }
  };
  for (size_t i = 0; i < suffixes.size(); ++i) {
    if (i > 0) close_down_to(common_prefix(suffixes[i - 1].text, suffixes[i].text));
    open.push_back(suffixes[i]);
  }
  close_down_to(0);
  keep_best();
  std::sort(found.begin(), found.end(), better);
  std::vector<CountedSubstring> substrings;
  for (const Scored& scored : found) substrings.push_back(scored.substring);
  return substrings;
}

}  // namespace engine::tokenizer
