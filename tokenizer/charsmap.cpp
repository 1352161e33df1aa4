#include "tokenizer/charsmap.h"

#include <fmt/core.h>

#include <cstring>

#include "engine/core/error.h"
#include "tokenizer/unicode.h"

namespace engine::tokenizer {
namespace {

// Keys and replacements of real files are a few characters long. The limits keep a damaged trie,
// whose walks may go in circles, from costing more than a little time and memory per character.
constexpr size_t kMaxKeyBytes = 256;
constexpr size_t kMaxReplacementBytes = 1024;

// The fields of a unit of darts-clone.
bool has_leaf(uint32_t unit) {
  return (unit >> 8 & 1) == 1;
}
uint32_t value_of(uint32_t unit) {
  return unit & 0x7FFFFFFF;
}
uint32_t label_of(uint32_t unit) {
  return unit & (0x80000000u | 0xFF);
}
uint32_t offset_of(uint32_t unit) {
  return (unit >> 10) << ((unit & (1u << 9)) >> 6);
}

Error malformed(const std::string& file, std::string found) {
  return Error(ExitCode::checkpoint, "TOK-MALFORMED",
               fmt::format("the precompiled charsmap of {} is damaged", file))
      .found(std::move(found));
}

}  // namespace

Charsmap::Charsmap(std::string_view blob, const std::string& file) {
  uint32_t trie_bytes = 0;
  if (blob.size() <= 4) throw malformed(file, fmt::format("{} bytes", blob.size()));
  std::memcpy(&trie_bytes, blob.data(), 4);
  blob.remove_prefix(4);
  if (trie_bytes >= blob.size() || trie_bytes < 4 || trie_bytes % 4 != 0) {
    throw malformed(file, fmt::format("a trie of {} in {} bytes", trie_bytes, blob.size()));
  }
  units_.resize(trie_bytes / 4);
  std::memcpy(units_.data(), blob.data(), trie_bytes);
  replacements_ = blob.substr(trie_bytes);
  if (replacements_.back() != '\0') replacements_ += '\0';
  size_t begin = 0;
  for (size_t end; begin < replacements_.size(); begin = end + 1) {
    end = replacements_.find('\0', begin);
    if (end - begin > kMaxReplacementBytes) {
      throw malformed(file, fmt::format("a replacement of {} bytes", end - begin));
    }
  }

  // One step of ASCII must not end in a key, nor lead on to more ASCII.
  for (int c = 0; c < 128; ++c) {
    bool plain = true;
    for (int next = 0; next < 128 && plain; ++next) {
      const char both[] = {static_cast<char>(c), static_cast<char>(next)};
      plain = find(std::string_view(both, 2), /*shortest=*/true).length == 0;
      // The walk may pass both bytes without a key: a longer key begins with them.
      if (plain && offset_of(units_[0]) < units_.size()) {
        uint32_t node = offset_of(units_[0]);
        bool on = true;
        for (const char byte : both) {
          const uint32_t child = node ^ static_cast<unsigned char>(byte);
          on = byte != 0 && child < units_.size() &&
               label_of(units_[child]) == static_cast<unsigned char>(byte);
          if (!on) break;
          node = child ^ offset_of(units_[child]);
        }
        plain = !on;
      }
    }
    plain_before_ascii_[c] = plain;
  }
}

Charsmap::Rule Charsmap::find(std::string_view text, bool shortest) const {
  Rule rule;
  if (units_.empty()) return rule;
  size_t node = offset_of(units_[0]);
  const size_t limit = text.size() < kMaxKeyBytes ? text.size() : kMaxKeyBytes;
  for (size_t i = 0; i < limit; ++i) {
    const unsigned char byte = static_cast<unsigned char>(text[i]);
    if (byte == 0) break;  // ends a key; no key holds it
    node ^= byte;
    if (node >= units_.size() || label_of(units_[node]) != byte) break;
    const uint32_t unit = units_[node];
    node ^= offset_of(unit);
    if (!has_leaf(unit)) continue;
    if (node >= units_.size()) break;
    const size_t at = value_of(units_[node]);
    if (at >= replacements_.size()) break;
    rule = {i + 1, std::string_view(replacements_.data() + at)};
    if (shortest) break;
  }
  return rule;
}

void check_charsmap_growth(size_t text_bytes, size_t normalized_bytes) {
  constexpr size_t kMaxGrowth = 100;
  if (normalized_bytes <= kMaxGrowth * (text_bytes + 1024)) return;
  throw Error(ExitCode::checkpoint, "TOK-MALFORMED",
              "the precompiled charsmap makes a text more than a hundred times longer");
}

}  // namespace engine::tokenizer
