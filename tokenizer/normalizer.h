// The first stage of encoding: rewrites text before it is split.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/charsmap.h"
#include "tokenizer/regex.h"

namespace engine::tokenizer {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // Writes the normal form of `text` (valid UTF-8) to `*out` and returns true, or returns false and
  // leaves `*out` alone when the text already is its own normal form.
  virtual bool normalize(std::string_view text, RegexScratch& scratch, std::string* out) const = 0;
  // False where the first character is removed: what is left does not begin the text, and a
  // pre-tokenizer that puts something at the beginning of texts does not do it there.
  virtual bool keeps_start(std::string_view text, RegexScratch& scratch) const;
};

enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };

std::unique_ptr<Normalizer> make_unicode_normalizer(UnicodeForm form);
// Puts `prefix` before every text that is not empty.
std::unique_ptr<Normalizer> make_prepend_normalizer(std::string prefix);
std::unique_ptr<Normalizer> make_replace_normalizer(Regex pattern, std::string content);
std::unique_ptr<Normalizer> make_literal_replace_normalizer(std::string text, std::string content);
// Removes white space at either end.
std::unique_ptr<Normalizer> make_strip_normalizer(bool left, bool right);
// Full lower case of every character by itself (no final sigma), as Rust's char::to_lowercase.
std::unique_ptr<Normalizer> make_lowercase_normalizer();
// Removes marks (general category M).
std::unique_ptr<Normalizer> make_strip_accents_normalizer();
// The cleaning of Google's NMT: control characters go, space-like ones become spaces.
std::unique_ptr<Normalizer> make_nmt_normalizer();
// Every byte becomes its character of the byte alphabet (byte_level.h).
std::unique_ptr<Normalizer> make_byte_spelling_normalizer();
// A charsmap as Hugging Face tokenizers applies it: to whole grapheme clusters below six bytes, of
// which the shortest rule that fits their beginning replaces all; otherwise character by character.
std::unique_ptr<Normalizer> make_precompiled_normalizer(Charsmap charsmap);
struct BertNormalizerOptions {
  bool clean_text = true;            // control characters go, white space becomes spaces
  bool handle_chinese_chars = true;  // spaces around ideographs
  bool strip_accents = true;         // NFD without nonspacing marks
  bool lowercase = true;
};
std::unique_ptr<Normalizer> make_bert_normalizer(BertNormalizerOptions options);
std::unique_ptr<Normalizer> make_normalizer_sequence(
    std::vector<std::unique_ptr<Normalizer>> steps);

}  // namespace engine::tokenizer
