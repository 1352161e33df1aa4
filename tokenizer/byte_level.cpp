#include "tokenizer/byte_level.h"

#include "tokenizer/unicode.h"

namespace engine::tokenizer {
namespace {

constexpr bool stands_for_itself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) ||
         (byte >= 0xAE && byte <= 0xFF);
}

struct Tables {
  std::array<char16_t, 256> to_character{};
  std::array<int16_t, 0x144> to_byte{};
};

const Tables& tables() {
  static const Tables instance = [] {
    Tables t;
    t.to_byte.fill(-1);
    char16_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const char16_t character = stands_for_itself(byte) ? static_cast<char16_t>(byte) : next++;
      t.to_character[byte] = character;
      t.to_byte[character] = static_cast<int16_t>(byte);
    }
    return t;
  }();
  return instance;
}

}  // namespace

const std::array<char16_t, 256>& byte_alphabet() {
  return tables().to_character;
}

std::string spell_bytes(std::string_view bytes) {
  std::string spelling;
  spelling.reserve(bytes.size() * 2);
  for (const char byte : bytes) {
    append_utf8(tables().to_character[static_cast<unsigned char>(byte)], &spelling);
  }
  return spelling;
}

bool append_unspelled_bytes(std::string_view spelling, std::string* out) {
  const size_t before = out->size();
  const auto& to_byte = tables().to_byte;
  for (size_t at = 0; at < spelling.size();) {
    const CodePoint c = decode_code_point(spelling, at);
    if (c.value >= to_byte.size() || to_byte[c.value] < 0) {
      out->resize(before);
      return false;
    }
    out->push_back(static_cast<char>(to_byte[c.value]));
    at += c.length;
  }
  return true;
}

std::optional<std::string> unspell_bytes(std::string_view spelling) {
  std::string bytes;
  if (!append_unspelled_bytes(spelling, &bytes)) return std::nullopt;
  return bytes;
}

std::string byte_token(unsigned char byte) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  return {'<', '0', 'x', kDigits[byte / 16], kDigits[byte % 16], '>'};
}

int byte_of_token(std::string_view token) {
  const auto digit = [&](size_t at) {
    const char c = token[at];
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  };
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  return digit(3) < 0 || digit(4) < 0 ? -1 : digit(3) * 16 + digit(4);
}

}  // namespace engine::tokenizer
