// The first stage of encoding: rewrites text before it is split.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/regex.h"

namespace engine::tokenizer {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  // Writes the normal form of `text` (valid UTF-8) to `*out` and returns true, or returns false and
  // leaves `*out` alone when the text already is its own normal form.
  virtual bool normalize(std::string_view text, RegexScratch& scratch, std::string* out) const = 0;
};

enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };

std::unique_ptr<Normalizer> make_unicode_normalizer(UnicodeForm form);
// Puts `prefix` before every text that is not empty.
std::unique_ptr<Normalizer> make_prepend_normalizer(std::string prefix);
std::unique_ptr<Normalizer> make_replace_normalizer(Regex pattern, std::string content);
std::unique_ptr<Normalizer> make_literal_replace_normalizer(std::string text, std::string content);
// Removes white space at either end.
std::unique_ptr<Normalizer> make_strip_normalizer(bool left, bool right);
std::unique_ptr<Normalizer> make_normalizer_sequence(
    std::vector<std::unique_ptr<Normalizer>> steps);

}  // namespace engine::tokenizer
