#include "tokenizer/tokenizer_json_writer.h"

#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace engine::tokenizer {
namespace {

using json = nlohmann::ordered_json;

json added_tokens_json(const std::vector<AddedToken>& tokens) {
  json list = json::array();
  for (const AddedToken& token : tokens) {
    list.push_back({{"id", token.id},
                    {"content", token.content},
                    {"single_word", token.single_word},
                    {"lstrip", token.lstrip},
                    {"rstrip", token.rstrip},
                    {"normalized", token.normalized},
                    {"special", token.special}});
  }
  return list;
}

json byte_level_json(bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

json split_json(const std::string& regex) {
  if (regex.empty()) return byte_level_json(true);
  return {{"type", "Sequence"},
          {"pretokenizers",
           {{{"type", "Split"},
             {"pattern", {{"Regex", regex}}},
             {"behavior", "Isolated"},
             {"invert", false}},
            byte_level_json(false)}}};
}

json replace_json(const char* from, const char* to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

json template_json(const AddedToken& bos) {
  const json bos_piece = {{"SpecialToken", {{"id", bos.content}, {"type_id", 0}}}};
  const auto text = [](const char* id, int type) {
    return json{{"Sequence", {{"id", id}, {"type_id", type}}}};
  };
  return {{"type", "TemplateProcessing"},
          {"single", {bos_piece, text("A", 0)}},
          {"pair", {bos_piece, text("A", 0), bos_piece, text("B", 1)}},
          {"special_tokens",
           {{bos.content,
             {{"id", bos.content},
              {"ids", json::array({bos.id})},
              {"tokens", json::array({bos.content})}}}}}};
}

// The two big lists are written by hand: one line per entry, in order of id and rank.
std::string vocab_text(const std::vector<std::string>& vocab) {
  std::string text = "{";
  for (size_t id = 0; id < vocab.size(); ++id) {
    text += fmt::format("{}\n      {}: {}", id ? "," : "", json(vocab[id]).dump(), id);
  }
  return text + "\n    }";
}

std::string merges_text(const std::vector<std::pair<std::string, std::string>>& merges) {
  // "left right" is read by every version of the libraries, but cannot hold spaces.
  const bool has_space = std::any_of(merges.begin(), merges.end(), [](const auto& merge) {
    return merge.first.find(' ') != std::string::npos ||
           merge.second.find(' ') != std::string::npos;
  });
  std::string text = "[";
  for (size_t i = 0; i < merges.size(); ++i) {
    const auto& [left, right] = merges[i];
    const json entry = has_space ? json::array({left, right}) : json(left + " " + right);
    text += fmt::format("{}\n      {}", i ? "," : "", entry.dump());
  }
  return text + "\n    ]";
}

struct Steps {
  json normalizer, pre_tokenizer, post_processor, decoder;
};

// Spaces as "▁", one more in front, and the way back.
Steps metaspace_steps() {
  Steps steps;
  steps.normalizer = {
      {"type", "Sequence"},
      {"normalizers", {{{"type", "Prepend"}, {"prepend", "\u2581"}}, replace_json(" ", "\u2581")}}};
  steps.decoder = {{"type", "Sequence"},
                   {"decoders",
                    {replace_json("\u2581", " "),
                     {{"type", "ByteFallback"}},
                     {{"type", "Fuse"}},
                     {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}};
  return steps;
}

// Everything before the fields of the model.
std::string head_text(const Steps& steps, const std::vector<AddedToken>& added_tokens) {
  std::string text = "{\n";
  const auto field = [&](const char* name, const json& value) {
    text += fmt::format("  \"{}\": {},\n", name, value.dump());
  };
  field("version", "1.0");
  field("truncation", nullptr);
  field("padding", nullptr);
  field("added_tokens", added_tokens_json(added_tokens));
  field("normalizer", steps.normalizer);
  field("pre_tokenizer", steps.pre_tokenizer);
  field("post_processor", steps.post_processor);
  field("decoder", steps.decoder);
  return text + "  \"model\": {\n";
}

}  // namespace

std::string write_tokenizer_json(const UnigramFile& file) {
  Steps steps = metaspace_steps();
  steps.pre_tokenizer = {{"type", "Split"},
                         {"pattern", {{"Regex", "\n+|\u2581+[^\u2581\n]*|[^\u2581\n]+"}}},
                         {"behavior", "Isolated"},
                         {"invert", false}};
  std::string text = head_text(steps, file.added_tokens);
  text += fmt::format("    \"type\": \"Unigram\",\n    \"unk_id\": {},\n", file.unk_id);
  text += "    \"vocab\": [";
  for (size_t id = 0; id < file.vocab.size(); ++id) {
    const auto& [token, score] = file.vocab[id];
    text +=
        fmt::format("{}\n      [{}, {}]", id ? "," : "", json(token).dump(), json(score).dump());
  }
  return text + "\n    ],\n    \"byte_fallback\": true\n  }\n}\n";
}

std::string write_tokenizer_json(const BpeFile& file) {
  const bool byte_level = file.style == BpeFile::Style::kByteLevel;
  Steps steps;
  if (byte_level) {
    steps.pre_tokenizer = split_json(file.split_regex);
    steps.post_processor = byte_level_json(true);
    steps.decoder = byte_level_json(true);
  } else {
    steps = metaspace_steps();
    steps.post_processor = template_json(file.bos);
  }
  std::string text = head_text(steps, file.added_tokens);
  const auto model_field = [&](const char* name, const json& value) {
    text += fmt::format("    \"{}\": {},\n", name, value.dump());
  };
  model_field("type", "BPE");
  model_field("dropout", nullptr);
  model_field("unk_token", byte_level ? json(nullptr) : json(file.unk.content));
  model_field("continuing_subword_prefix", nullptr);
  model_field("end_of_word_suffix", nullptr);
  model_field("fuse_unk", !byte_level);
  model_field("byte_fallback", !byte_level);
  model_field("ignore_merges", false);
  text += "    \"vocab\": " + vocab_text(file.vocab) + ",\n";
  text += "    \"merges\": " + merges_text(file.merges) + "\n  }\n}\n";
  return text;
}

}  // namespace engine::tokenizer
