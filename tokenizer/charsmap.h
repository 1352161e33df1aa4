// The "precompiled charsmap" of SentencePiece: which sequences of characters a normalizer replaces
// by which. Stands in .model files and, in base64, in tokenizer.json.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace engine::tokenizer {

// The blob: u32 bytes of the trie, the trie, then replacements, each ended by a zero byte. The trie
// is a darts-clone double array; the value of a key is the offset of its replacement.
class Charsmap {
 public:
  // Nothing is replaced.
  Charsmap() = default;
  // Throws TOK-MALFORMED, naming `file`. The trie itself is not checked: walks stay inside it, and
  // what they find is bounded.
  Charsmap(std::string_view blob, const std::string& file);

  bool empty() const { return units_.empty(); }

  struct Rule {
    size_t length = 0;  // bytes of the key; 0 = no rule
    std::string_view replacement;
  };
  // The longest and the shortest rule whose key `text` begins with.
  Rule longest(std::string_view text) const { return find(text, /*shortest=*/false); }
  Rule shortest(std::string_view text) const { return find(text, /*shortest=*/true); }

  // True when no rule applies to the ASCII character `text[at]` because the next one is ASCII too,
  // or there is none: nearly all places of English text.
  bool is_plain_ascii(std::string_view text, size_t at) const {
    const unsigned char c = static_cast<unsigned char>(text[at]);
    return c < 0x80 && plain_before_ascii_[c] &&
           (at + 1 == text.size() || static_cast<unsigned char>(text[at + 1]) < 0x80);
  }

 private:
  Rule find(std::string_view text, bool shortest) const;

  std::vector<uint32_t> units_;
  std::string replacements_;
  std::array<bool, 128> plain_before_ascii_{};
};

// Throws TOK-MALFORMED when a charsmap has made a text absurdly long.
void check_charsmap_growth(size_t text_bytes, size_t normalized_bytes);

}  // namespace engine::tokenizer
