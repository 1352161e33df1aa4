#include <fmt/core.h>

#include "tokenizer/base64.h"
#include "tokenizer/charsmap.h"
#include "tokenizer/json_steps.h"

namespace engine::tokenizer {
namespace {

Charsmap read_charsmap(const Node& node) {
  std::string blob;
  if (!decode_base64(node.string(), &blob)) throw node.wrong_type("base64");
  return Charsmap(blob, node.file());
}

}  // namespace

std::unique_ptr<Normalizer> read_normalizer(const Node& node) {
  const std::string& type = node.type();
  if (type == "NFC") return make_unicode_normalizer(UnicodeForm::kNfc);
  if (type == "NFD") return make_unicode_normalizer(UnicodeForm::kNfd);
  if (type == "NFKC") return make_unicode_normalizer(UnicodeForm::kNfkc);
  if (type == "NFKD") return make_unicode_normalizer(UnicodeForm::kNfkd);
  if (type == "Lowercase") return make_lowercase_normalizer();
  if (type == "StripAccents") return make_strip_accents_normalizer();
  if (type == "Nmt") return make_nmt_normalizer();
  if (type == "ByteLevel") return make_byte_spelling_normalizer();
  if (type == "Prepend") return make_prepend_normalizer(node.at("prepend").string());
  if (type == "Precompiled") {
    return make_precompiled_normalizer(read_charsmap(node.at("precompiled_charsmap")));
  }
  if (type == "BertNormalizer") {
    const bool lowercase = node.boolean_or("lowercase", true);
    return make_bert_normalizer(
        {.clean_text = node.boolean_or("clean_text", true),
         .handle_chinese_chars = node.boolean_or("handle_chinese_chars", true),
         .strip_accents = node.boolean_or("strip_accents", lowercase),
         .lowercase = lowercase});
  }
  if (type == "Strip") {
    return make_strip_normalizer(node.at("strip_left").boolean(), node.at("strip_right").boolean());
  }
  if (type == "Replace") {
    const PatternSpec pattern = read_pattern(node.at("pattern"));
    const std::string& content = node.at("content").string();
    if (!pattern.is_regex) return make_literal_replace_normalizer(pattern.text, content);
    return make_replace_normalizer(make_regex(pattern, node.at("pattern")), content);
  }
  if (type == "Sequence") {
    std::vector<std::unique_ptr<Normalizer>> steps;
    for (const Node& step : node.at("normalizers").elements()) {
      steps.push_back(read_normalizer(step));
    }
    return make_normalizer_sequence(std::move(steps));
  }
  throw node.unsupported(fmt::format("normalizer \"{}\"", type),
                         "NFC, NFD, NFKC, NFKD, Lowercase, StripAccents, Strip, Nmt, Prepend, "
                         "Replace, Precompiled, ByteLevel, BertNormalizer, Sequence");
}

}  // namespace engine::tokenizer
