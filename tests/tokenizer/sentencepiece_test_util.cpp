#include "tests/tokenizer/sentencepiece_test_util.h"

#include <bit>
#include <cstring>

#include "tokenizer/byte_level.h"
#include "tokenizer/loaders.h"

namespace engine::testing {
namespace {

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}

std::string float_field(uint32_t number, float value) {
  std::string bytes = varint(number << 3 | 5);
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return bytes.append(reinterpret_cast<const char*>(&bits), 4);
}

}  // namespace

std::string bytes_field(uint32_t number, std::string_view bytes) {
  return varint(number << 3 | 2) + varint(bytes.size()) + std::string(bytes);
}

std::string integer_field(uint32_t number, uint64_t value) {
  return varint(number << 3) + varint(value);
}

std::string serialize(const SpmModel& model) {
  std::string file;
  for (const SpmPiece& piece : model.pieces) {
    file += bytes_field(
        1, bytes_field(1, piece.text) + float_field(2, piece.score) + integer_field(3, piece.type));
  }
  file += bytes_field(2, integer_field(3, model.type) + integer_field(24, model.suffix) +
                             integer_field(35, model.byte_fallback));
  std::string normalizer = integer_field(3, model.dummy_prefix) +
                           integer_field(4, model.remove_extra_whitespaces) +
                           integer_field(5, model.escape_whitespaces);
  if (!model.charsmap.empty()) normalizer += bytes_field(2, model.charsmap);
  return file + bytes_field(3, normalizer);
}

Tokenizer open_sentencepiece(std::string_view contents) {
  return Tokenizer(tokenizer::load_sentencepiece({.contents = contents, .name = "test.model"}));
}

Tokenizer open_sentencepiece(const SpmModel& model) {
  return open_sentencepiece(serialize(model));
}

std::vector<SpmPiece> reserved_pieces(bool with_bytes) {
  std::vector<SpmPiece> pieces = {
      {"<unk>", 0, kUnknown}, {"<s>", 0, kControl}, {"</s>", 0, kControl}};
  for (unsigned byte = 0; with_bytes && byte < 256; ++byte) {
    pieces.push_back({tokenizer::byte_token(static_cast<unsigned char>(byte)), 0, kByte});
  }
  return pieces;
}

// Units of the double array: the root at 0, the character at 0x100 ^ from, its value at `from`.
std::string one_rule_charsmap(char from, std::string_view to) {
  std::vector<uint32_t> units(512, 0);
  const uint32_t byte = static_cast<unsigned char>(from);
  units[0] = 0x100u << 10;
  units[0x100 ^ byte] = 0x100u << 10 | 1u << 8 | byte;
  units[byte] = 1u << 31;  // offset 0 in the replacements
  const uint32_t trie_bytes = static_cast<uint32_t>(units.size() * 4);
  std::string blob(reinterpret_cast<const char*>(&trie_bytes), 4);
  blob.append(reinterpret_cast<const char*>(units.data()), trie_bytes);
  return blob + std::string(to) + '\0';
}

}  // namespace engine::testing
