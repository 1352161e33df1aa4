// UTF-8 and the few Unicode properties the tokenizer needs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace engine::tokenizer {

// Byte offset of the first malformed sequence (overlong, surrogate, above U+10FFFF, truncated or
// stray byte), or std::string_view::npos when `text` is valid UTF-8.
size_t find_invalid_utf8(std::string_view text);

// True when `text` is a correct character but for its last bytes, which are missing.
bool is_unfinished_utf8(std::string_view text);

struct CodePoint {
  char32_t value;
  size_t length;  // bytes
};

// Bytes of the character that starts at `at`, told from its first byte; any bytes will do, and what
// comes out never reaches beyond the text.
inline size_t character_length(std::string_view text, size_t at) {
  const unsigned char lead = static_cast<unsigned char>(text[at]);
  const size_t length = lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  return length < text.size() - at ? length : text.size() - at;
}
// The code point that starts at byte `at` of valid UTF-8.
CodePoint decode_code_point(std::string_view text, size_t at);
// The code point that ends just before byte `end` > 0 of valid UTF-8.
CodePoint decode_code_point_before(std::string_view text, size_t end);
void append_utf8(char32_t code_point, std::string* out);

// The beginning of valid UTF-8, at most `max_bytes` long and not cut inside a character: for error
// messages.
std::string_view excerpt(std::string_view text, size_t max_bytes = 40);

// The Unicode property White_Space.
bool is_white_space(char32_t code_point);
// \w of UTS #18: alphabetic, mark, decimal digit, connector punctuation or join control.
bool is_word_character(char32_t code_point);
// ASCII punctuation and symbols, and general category P.
bool is_punctuation(char32_t code_point);
// General category M: nonspacing, spacing or enclosing mark.
bool is_mark(char32_t code_point);
// General category Mn.
bool is_nonspacing_mark(char32_t code_point);
// General category C but for what is not assigned: control, format, private use, surrogate.
bool is_other(char32_t code_point);
// Appends the lower case of a character: one, but for U+0130 two characters.
void append_lowercase(char32_t code_point, std::string* out);
// Bytes of the extended grapheme cluster (UAX #29) that starts at `at` of valid UTF-8.
size_t grapheme_length(std::string_view text, size_t at);
// General category N: decimal, letter or other number.
bool is_numeric(char32_t code_point);

// Turns a stream of bytes into valid UTF-8: complete characters pass, each maximal part of a
// malformed sequence becomes one U+FFFD (the substitution rule of the Unicode standard, section
// 3.9), and an unfinished character waits for its missing bytes.
class LossyUtf8 {
 public:
  void push(std::string_view bytes, std::string* out);
  // Ends the stream: an unfinished character becomes U+FFFD.
  void finish(std::string* out);

 private:
  std::string pending_;
};

}  // namespace engine::tokenizer
