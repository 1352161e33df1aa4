#include "tokenizer/normalizer.h"

#include <fmt/core.h>
#include <utf8proc.h>

#include <cstdlib>
#include <stdexcept>

#include "tokenizer/unicode.h"

namespace engine::tokenizer {
namespace {

bool is_ascii(std::string_view text) {
  for (const char c : text) {
    if (static_cast<unsigned char>(c) >= 0x80) return false;
  }
  return true;
}

// Ranges that never change under NFC, whatever stands beside them: starters that compose with
// nothing before them. Text made of these alone needs no work.
bool is_stable_under_nfc(char32_t c) {
  return c < 0x300 || (c >= 0x400 && c <= 0x482) || (c >= 0x48A && c <= 0x52F) ||
         (c >= 0x2010 && c <= 0x2027) || (c >= 0x2190 && c <= 0x21FF) ||
         (c >= 0x2500 && c <= 0x26FF) || (c >= 0x3001 && c <= 0x3029) ||
         (c >= 0x3041 && c <= 0x3096) || (c >= 0x30A1 && c <= 0x30FE) ||
         (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0xAC00 && c <= 0xD7A3) ||
         (c >= 0xFF01 && c <= 0xFF5E) || (c >= 0x1F300 && c <= 0x1F64F);
}

class UnicodeNormalizer final : public Normalizer {
 public:
  explicit UnicodeNormalizer(UnicodeForm form) : form_(form) {}

  bool normalize(std::string_view text, RegexScratch&, std::string* out) const override {
    if (is_ascii(text)) return false;
    if (form_ == UnicodeForm::kNfc && is_stable(text)) return false;
    int options = UTF8PROC_STABLE;
    const bool composes = form_ == UnicodeForm::kNfc || form_ == UnicodeForm::kNfkc;
    const bool compatible = form_ == UnicodeForm::kNfkc || form_ == UnicodeForm::kNfkd;
    options |= composes ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    if (compatible) options |= UTF8PROC_COMPAT;
    utf8proc_uint8_t* mapped = nullptr;
    const utf8proc_ssize_t length =
        utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                     static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                     static_cast<utf8proc_option_t>(options));
    if (length < 0) {
      throw std::logic_error(
          fmt::format("utf8proc refused checked text: {}", utf8proc_errmsg(length)));
    }
    out->assign(reinterpret_cast<const char*>(mapped), static_cast<size_t>(length));
    std::free(mapped);
    return true;
  }

 private:
  static bool is_stable(std::string_view text) {
    for (size_t at = 0; at < text.size();) {
      const CodePoint c = decode_code_point(text, at);
      if (!is_stable_under_nfc(c.value)) return false;
      at += c.length;
    }
    return true;
  }

  UnicodeForm form_;
};

class Prepend final : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  bool normalize(std::string_view text, RegexScratch&, std::string* out) const override {
    if (text.empty()) return false;
    out->assign(prefix_);
    out->append(text);
    return true;
  }

 private:
  std::string prefix_;
};

class Replace final : public Normalizer {
 public:
  Replace(Regex pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  bool normalize(std::string_view text, RegexScratch& scratch, std::string* out) const override {
    MatchIterator matches(pattern_, text, scratch);
    Match match;
    if (!matches.next(&match)) return false;
    out->clear();
    size_t copied = 0;
    do {
      out->append(text, copied, match.begin - copied);
      out->append(content_);
      copied = match.end;
    } while (matches.next(&match));
    out->append(text, copied);
    return true;
  }

 private:
  Regex pattern_;
  std::string content_;
};

class LiteralReplace final : public Normalizer {
 public:
  LiteralReplace(std::string text, std::string content)
      : text_(std::move(text)), content_(std::move(content)) {}
  bool normalize(std::string_view text, RegexScratch&, std::string* out) const override {
    size_t found = text.find(text_);
    if (found == std::string_view::npos) return false;
    out->clear();
    size_t copied = 0;
    for (; found != std::string_view::npos; found = text.find(text_, copied)) {
      out->append(text, copied, found - copied);
      out->append(content_);
      copied = found + text_.size();
    }
    out->append(text, copied);
    return true;
  }

 private:
  std::string text_;
  std::string content_;
};

class Strip final : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  bool normalize(std::string_view text, RegexScratch&, std::string* out) const override {
    size_t begin = 0;
    size_t end = text.size();
    while (left_ && begin < end) {
      const CodePoint c = decode_code_point(text, begin);
      if (!is_white_space(c.value)) break;
      begin += c.length;
    }
    while (right_ && begin < end) {
      const CodePoint c = decode_code_point_before(text, end);
      if (!is_white_space(c.value)) break;
      end -= c.length;
    }
    if (end - begin == text.size()) return false;
    out->assign(text.substr(begin, end - begin));
    return true;
  }
  bool keeps_start(std::string_view text, RegexScratch&) const override {
    return text.empty() || !left_ || !is_white_space(decode_code_point(text, 0).value);
  }

 private:
  bool left_, right_;
};

class NormalizerSequence final : public Normalizer {
 public:
  explicit NormalizerSequence(std::vector<std::unique_ptr<Normalizer>> steps)
      : steps_(std::move(steps)) {}
  bool normalize(std::string_view text, RegexScratch& scratch, std::string* out) const override {
    bool changed = false;
    std::string next;
    for (const auto& step : steps_) {
      if (!step->normalize(changed ? std::string_view(*out) : text, scratch, &next)) continue;
      out->swap(next);
      changed = true;
    }
    return changed;
  }
  bool keeps_start(std::string_view text, RegexScratch& scratch) const override {
    if (text.empty()) return true;
    std::string first(text.substr(0, character_length(text, 0)));
    std::string next;
    for (const auto& step : steps_) {
      if (!step->keeps_start(first, scratch)) return false;
      if (step->normalize(first, scratch, &next)) first.swap(next);
    }
    return true;
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> steps_;
};

}  // namespace

bool Normalizer::keeps_start(std::string_view text, RegexScratch& scratch) const {
  if (text.empty()) return true;
  std::string normal_form;
  return !normalize(text.substr(0, character_length(text, 0)), scratch, &normal_form) ||
         !normal_form.empty();
}

std::unique_ptr<Normalizer> make_unicode_normalizer(UnicodeForm form) {
  return std::make_unique<UnicodeNormalizer>(form);
}
std::unique_ptr<Normalizer> make_prepend_normalizer(std::string prefix) {
  return std::make_unique<Prepend>(std::move(prefix));
}
std::unique_ptr<Normalizer> make_replace_normalizer(Regex pattern, std::string content) {
  return std::make_unique<Replace>(std::move(pattern), std::move(content));
}
std::unique_ptr<Normalizer> make_literal_replace_normalizer(std::string text, std::string content) {
  if (text.empty()) return make_replace_normalizer(Regex(""), std::move(content));
  return std::make_unique<LiteralReplace>(std::move(text), std::move(content));
}
std::unique_ptr<Normalizer> make_strip_normalizer(bool left, bool right) {
  return std::make_unique<Strip>(left, right);
}
std::unique_ptr<Normalizer> make_normalizer_sequence(
    std::vector<std::unique_ptr<Normalizer>> steps) {
  return std::make_unique<NormalizerSequence>(std::move(steps));
}

}  // namespace engine::tokenizer
