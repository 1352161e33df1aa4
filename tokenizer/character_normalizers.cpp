// Normalizers that go through a text character by character.
#include "engine/core/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/unicode.h"

namespace engine::tokenizer {
namespace {

// `Rewrite` has rewrite(code point, character, out): what the character becomes.
template <typename Rewrite>
class CharacterNormalizer final : public Normalizer {
 public:
  bool normalize(std::string_view text, RegexScratch&, std::string* out) const override {
    std::string rewritten;
    rewritten.reserve(text.size());
    for (size_t at = 0; at < text.size();) {
      const CodePoint c = decode_code_point(text, at);
      Rewrite::rewrite(c.value, text.substr(at, c.length), &rewritten);
      at += c.length;
    }
    if (rewritten == text) return false;
    *out = std::move(rewritten);
    return true;
  }
};

struct Lowercase {
  static void rewrite(char32_t c, std::string_view, std::string* out) {
    if (c < 0x80) {
      *out += static_cast<char>(c >= 'A' && c <= 'Z' ? c + 0x20 : c);
    } else {
      append_lowercase(c, out);
    }
  }
};

struct StripAccents {
  static void rewrite(char32_t c, std::string_view character, std::string* out) {
    if (c < 0x80 || !is_mark(c)) *out += character;
  }
};

struct StripNonspacing {
  static void rewrite(char32_t c, std::string_view character, std::string* out) {
    if (c < 0x80 || !is_nonspacing_mark(c)) *out += character;
  }
};

struct Nmt {
  static void rewrite(char32_t c, std::string_view character, std::string* out) {
    const bool removed = (c >= 0x01 && c <= 0x08) || c == 0x0B || (c >= 0x0E && c <= 0x1F) ||
                         c == 0x7F || c == 0x8F || c == 0x9F;
    const bool space = c == 0x09 || c == 0x0A || c == 0x0C || c == 0x0D || c == 0x1680 ||
                       (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                       c == 0xFEFF || c == 0xFFFD;
    if (space) {
      *out += ' ';
    } else if (!removed) {
      *out += character;
    }
  }
};

struct SpellBytes {
  static void rewrite(char32_t, std::string_view character, std::string* out) {
    *out += spell_bytes(character);
  }
};

struct CleanText {
  static void rewrite(char32_t c, std::string_view character, std::string* out) {
    if (c == '\t' || c == '\n' || c == '\r') {
      *out += ' ';
    } else if (c == 0 || c == 0xFFFD || is_other(c)) {
      return;
    } else if (is_white_space(c)) {
      *out += ' ';
    } else {
      *out += character;
    }
  }
};

// The blocks that BERT takes for Chinese; its list, not Unicode's.
bool is_ideograph(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
         (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) ||
         (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

struct SpaceIdeographs {
  static void rewrite(char32_t c, std::string_view character, std::string* out) {
    if (!is_ideograph(c)) {
      *out += character;
      return;
    }
    *out += ' ';
    *out += character;
    *out += ' ';
  }
};

class Precompiled final : public Normalizer {
 public:
  explicit Precompiled(Charsmap charsmap) : charsmap_(std::move(charsmap)) {}

  bool normalize(std::string_view text, RegexScratch&, std::string* out) const override {
    std::string rewritten;
    rewritten.reserve(text.size());
    bool changed = false;
    const auto replace = [&](std::string_view part) {
      const Charsmap::Rule rule = charsmap_.shortest(part);
      if (rule.length == 0) return false;
      if (find_invalid_utf8(rule.replacement) != std::string_view::npos) {
        throw Error(ExitCode::checkpoint, "TOK-MALFORMED",
                    "the precompiled charsmap has a replacement that is not UTF-8");
      }
      rewritten += rule.replacement;
      check_charsmap_growth(text.size(), rewritten.size());
      changed = true;
      return true;
    };
    for (size_t at = 0; at < text.size();) {
      if (charsmap_.is_plain_ascii(text, at) && text[at] != '\r') {
        rewritten += text[at++];
        continue;
      }
      const std::string_view cluster = text.substr(at, grapheme_length(text, at));
      at += cluster.size();
      if (cluster.size() < 6 && replace(cluster)) continue;
      for (size_t i = 0; i < cluster.size();) {
        const std::string_view character = cluster.substr(i, character_length(cluster, i));
        if (!replace(character)) rewritten += character;
        i += character.size();
      }
    }
    if (changed) *out = std::move(rewritten);
    return changed;
  }
  // So it is in Hugging Face tokenizers.
  bool keeps_start(std::string_view, RegexScratch&) const override { return true; }

 private:
  Charsmap charsmap_;
};

}  // namespace

std::unique_ptr<Normalizer> make_lowercase_normalizer() {
  return std::make_unique<CharacterNormalizer<Lowercase>>();
}
std::unique_ptr<Normalizer> make_strip_accents_normalizer() {
  return std::make_unique<CharacterNormalizer<StripAccents>>();
}
std::unique_ptr<Normalizer> make_nmt_normalizer() {
  return std::make_unique<CharacterNormalizer<Nmt>>();
}
std::unique_ptr<Normalizer> make_byte_spelling_normalizer() {
  return std::make_unique<CharacterNormalizer<SpellBytes>>();
}
std::unique_ptr<Normalizer> make_precompiled_normalizer(Charsmap charsmap) {
  return std::make_unique<Precompiled>(std::move(charsmap));
}
std::unique_ptr<Normalizer> make_bert_normalizer(BertNormalizerOptions options) {
  std::vector<std::unique_ptr<Normalizer>> steps;
  if (options.clean_text) steps.push_back(std::make_unique<CharacterNormalizer<CleanText>>());
  if (options.handle_chinese_chars) {
    steps.push_back(std::make_unique<CharacterNormalizer<SpaceIdeographs>>());
  }
  if (options.strip_accents) {
    steps.push_back(make_unicode_normalizer(UnicodeForm::kNfd));
    steps.push_back(std::make_unique<CharacterNormalizer<StripNonspacing>>());
  }
  if (options.lowercase) steps.push_back(make_lowercase_normalizer());
  return make_normalizer_sequence(std::move(steps));
}

}  // namespace engine::tokenizer
