#include <fmt/core.h>

#include "tokenizer/json_steps.h"

namespace engine::tokenizer {
namespace {

void wrap(const std::vector<int32_t>& prefix, const std::vector<int32_t>& suffix,
          PostProcessor* out) {
  out->prefix.insert(out->prefix.begin(), prefix.begin(), prefix.end());
  out->suffix.insert(out->suffix.end(), suffix.begin(), suffix.end());
}

void read_template(const Node& node, PostProcessor* out) {
  bool after_sequence = false;
  std::vector<int32_t> prefix, suffix;
  for (const Node& piece : node.at("single").elements()) {
    if (piece.has("Sequence")) {
      if (after_sequence) {
        throw piece.unsupported("a template that repeats its text", "one Sequence");
      }
      if (piece.at("Sequence").at("id").string() != "A") {
        throw piece.unsupported("a template for one text that asks for a second", "Sequence A");
      }
      after_sequence = true;
      continue;
    }
    const std::string& name = piece.at("SpecialToken").at("id").string();
    const Node token = node.at("special_tokens").at(name.c_str());
    for (const Node& id : token.at("ids").elements()) {
      (after_sequence ? suffix : prefix).push_back(id.id());
    }
  }
  if (!after_sequence) throw node.unsupported("a template without text", "one Sequence");
  wrap(prefix, suffix, out);
}

// The template of pairs: special tokens before A, between A and B, and behind B.
std::optional<PairIds> read_pair_template(const Node& node) {
  if (!node.has("pair")) return std::nullopt;
  PairIds pair;
  std::vector<int32_t>* part = &pair.before;
  for (const Node& piece : node.at("pair").elements()) {
    if (piece.has("Sequence")) {
      const std::string& id = piece.at("Sequence").at("id").string();
      // Templates that swap or repeat the texts are left to nobody: no tokenizer has them.
      if (id != (part == &pair.before ? "A" : "B") || part == &pair.after) return std::nullopt;
      part = part == &pair.before ? &pair.between : &pair.after;
      continue;
    }
    const std::string& name = piece.at("SpecialToken").at("id").string();
    for (const Node& id : node.at("special_tokens").at(name.c_str()).at("ids").elements()) {
      part->push_back(id.id());
    }
  }
  if (part != &pair.after) return std::nullopt;
  return pair;
}

void read_steps(const Node& node, PostProcessor* out) {
  const std::string& type = node.type();
  if (type == "ByteLevel") return;  // adjusts offsets, which we do not give
  if (type != "Sequence" && (!out->prefix.empty() || !out->suffix.empty())) {
    // Hugging Face tokenizers would put tokens around the tokens of the first one too.
    throw node.unsupported("a second post-processor that adds tokens", "one, and ByteLevel");
  }
  if (type == "Sequence") {
    for (const Node& step : node.at("processors").elements()) read_steps(step, out);
  } else if (type == "TemplateProcessing") {
    read_template(node, out);
    out->pair = read_pair_template(node);
  } else if (type == "RobertaProcessing" || type == "BertProcessing") {
    const auto id_of = [&](const char* key) {
      const std::vector<Node> pair = node.at(key).elements();
      if (pair.size() != 2) throw node.at(key).wrong_type(R"(["token", id])");
      return pair[1].id();
    };
    const int32_t begin = id_of("cls"), end = id_of("sep");
    wrap({begin}, {end}, out);
    out->pair = type == "BertProcessing" ? PairIds{{begin}, {end}, {end}}
                                         : PairIds{{begin}, {end, end}, {end}};
  } else {
    throw node.unsupported(
        fmt::format("post-processor \"{}\"", type),
        "TemplateProcessing, RobertaProcessing, BertProcessing, ByteLevel, Sequence");
  }
}

}  // namespace

PostProcessor read_post_processor(const Node& node) {
  PostProcessor out;
  read_steps(node, &out);
  return out;
}

}  // namespace engine::tokenizer
