// The byte alphabet of GPT-2: every byte is written as one printable character in vocabularies, so
// that tokens are text. Printable Latin-1 stands for itself; the 68 others become U+0100 onwards.
// In the engine tokens are raw bytes while they are merged; this spelling is for files only.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace engine::tokenizer {

// character of byte b
const std::array<char16_t, 256>& byte_alphabet();

// Bytes -> the spelling in vocabulary files.
std::string spell_bytes(std::string_view bytes);
// The inverse; nothing if `spelling` has a character outside the alphabet.
std::optional<std::string> unspell_bytes(std::string_view spelling);
// Appends the bytes that `spelling` stands for; false, appending nothing, if it is not a spelling.
bool append_unspelled_bytes(std::string_view spelling, std::string* out);

// The spelling of a byte in vocabularies with byte fallback: <0x00> to <0xFF>.
std::string byte_token(unsigned char byte);
// The byte that `token` spells so, or -1. Digits may be of either case.
int byte_of_token(std::string_view token);

}  // namespace engine::tokenizer
