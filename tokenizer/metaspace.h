// The character "▁" (U+2581), which stands for a space in SentencePiece vocabularies, and what it
// says about word boundaries.
#pragma once

#include <string_view>

#include "tokenizer/vocabulary.h"

namespace engine::tokenizer {

inline constexpr std::string_view kMetaspace = "\xE2\x96\x81";

// True when "▁" stands in `token` behind another character: such a token crosses from one word to
// the next.
inline bool crosses_words(std::string_view token) {
  size_t at = 0;
  while (token.substr(at, kMetaspace.size()) == kMetaspace) at += kMetaspace.size();
  return token.find(kMetaspace, at) != std::string_view::npos;
}

// Calls word(part) for the words of `text`: a new one begins with every "▁" that follows another
// character.
template <typename Word>
void for_each_word(std::string_view text, Word word) {
  size_t begin = 0;
  size_t at = 0;
  while (begin < text.size()) {
    while (text.substr(at, kMetaspace.size()) == kMetaspace) at += kMetaspace.size();
    size_t end = text.find(kMetaspace, at);
    if (end == std::string_view::npos) end = text.size();
    word(text.substr(begin, end - begin));
    begin = at = end;
  }
}

}  // namespace engine::tokenizer
