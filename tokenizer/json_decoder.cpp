#include <fmt/core.h>

#include "tokenizer/json_steps.h"

namespace engine::tokenizer {
namespace {

void read_steps(const Node& node, bool* fused, Decoder* steps) {
  const std::string& type = node.type();
  if (type == "Sequence") {
    for (const Node& step : node.at("decoders").elements()) read_steps(step, fused, steps);
    return;
  }
  const bool needs_tokens =
      type == "ByteLevel" || type == "ByteFallback" || type == "WordPiece" || type == "BPEDecoder";
  if (*fused && needs_tokens) {
    throw node.unsupported(fmt::format("decoder \"{}\" after Fuse or ByteLevel", type),
                           fmt::format("{} before Fuse", type));
  }
  if (type == "ByteLevel") {
    steps->push_back(make_byte_level_decoder());
    *fused = true;
  } else if (type == "ByteFallback") {
    steps->push_back(make_byte_fallback_decoder());
  } else if (type == "Fuse") {
    steps->push_back(make_fuse_decoder());
    *fused = true;
  } else if (type == "Replace") {
    const PatternSpec pattern = read_pattern(node.at("pattern"));
    const std::string& content = node.at("content").string();
    if (pattern.is_regex || pattern.text.empty()) {
      steps->push_back(
          make_regex_replace_decoder(make_regex(pattern, node.at("pattern")), content));
    } else {
      steps->push_back(make_replace_decoder(pattern.text, content));
    }
  } else if (type == "Strip") {
    const int64_t start = node.at("start").integer();
    const int64_t stop = node.at("stop").integer();
    if (start < 0 || stop < 0) throw node.malformed("a decoder cannot strip less than nothing");
    steps->push_back(make_strip_decoder({.character = node.at("content").character(),
                                         .start = static_cast<size_t>(start),
                                         .stop = static_cast<size_t>(stop)}));
  } else if (type == "Metaspace") {
    steps->push_back(make_metaspace_decoder(node.at("replacement").character(),
                                            read_prepend_scheme(node) != PrependScheme::kNever));
  } else if (type == "WordPiece") {
    const std::string prefix = node.has("prefix") ? node.at("prefix").string() : "##";
    steps->push_back(make_word_piece_decoder(prefix, node.boolean_or("cleanup", true)));
  } else if (type == "BPEDecoder") {
    const std::string suffix = node.has("suffix") ? node.at("suffix").string() : "</w>";
    steps->push_back(make_word_end_decoder(suffix));
  } else {
    throw node.unsupported(fmt::format("decoder \"{}\"", type),
                           "ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace, WordPiece, "
                           "BPEDecoder, Sequence");
  }
}

}  // namespace

Decoder read_decoder(const Node& node) {
  Decoder steps;
  bool fused = false;
  read_steps(node, &fused, &steps);
  return steps;
}

}  // namespace engine::tokenizer
