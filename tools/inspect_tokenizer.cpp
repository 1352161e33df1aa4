#include "tools/inspect_tokenizer.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string_view>

#include "engine/core/error.h"
#include "engine/data/utf8.h"
#include "tokenizer/chat/chat_template.h"
#include "tools/digits.h"

namespace engine {
namespace {

using Json = nlohmann::ordered_json;

// What a checkpoint brings must not steer the terminal.
std::string shown(std::string_view text) {
  constexpr size_t kMaxBytes = 200;
  return printable_excerpt(text, 0, kMaxBytes);
}

// A template that cannot be used is a fact too: the model can be looked at all the same.
Json chat_templates(const Tokenizer& tokenizer) {
  Json json = Json::array();
  try {
    if (!ChatTemplate::available(tokenizer)) return json;
    for (const ChatTemplate::Facts& facts : ChatTemplate::open(tokenizer).facts()) {
      json.push_back({{"name", facts.name},
                      {"generation_blocks", facts.has_generation_blocks},
                      {"roles", facts.roles}});
    }
  } catch (const Error& error) {
    json.push_back({{"error", error.code()}, {"message", error.what()}});
  }
  return json;
}

std::string token_list(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  if (ids.empty()) return "nothing";
  std::string text;
  for (const int32_t id : ids) {
    text += fmt::format("{}{} ({})", text.empty() ? "" : " ",
                        shown(tokenizer.id_to_token(id).value_or("")), id);
  }
  return text;
}

}  // namespace

Json tokenizer_facts(const Tokenizer& tokenizer) {
  Json json;
  json["type"] = tokenizer.model_name();
  json["tokens"] = tokenizer.vocab_size();
  const auto role = [&](const char* name, std::optional<int32_t> id) {
    if (id) json[name] = Json{{"id", *id}, {"token", tokenizer.id_to_token(*id).value_or("")}};
  };
  role("bos", tokenizer.bos_id());
  role("eos", tokenizer.eos_id());
  role("pad", tokenizer.pad_id());
  role("unk", tokenizer.roles().unk);
  json["special_tokens"] = tokenizer.special_tokens().size();
  json["prefix_ids"] = tokenizer.prefix_ids();
  json["suffix_ids"] = tokenizer.suffix_ids();
  json["files"] = Json::array();
  for (const TokenizerFile& file : tokenizer.files()) json["files"].push_back(file.name);
  json["chat_templates"] = chat_templates(tokenizer);
  return json;
}

void print_tokenizer_facts(const Tokenizer& tokenizer) {
  fmt::print("\ntokenizer   {}, {} tokens, {} special\n", tokenizer.model_name(),
             digits(tokenizer.vocab_size()), tokenizer.special_tokens().size());
  const auto role = [&](const char* name, std::optional<int32_t> id) {
    if (!id) return;
    fmt::print("  {:<4} {:>7}  {}\n", name, *id, shown(tokenizer.id_to_token(*id).value_or("")));
  };
  role("bos", tokenizer.bos_id());
  role("eos", tokenizer.eos_id());
  role("pad", tokenizer.pad_id());
  role("unk", tokenizer.roles().unk);
  fmt::print("  puts {} before a text, {} after it\n",
             token_list(tokenizer, tokenizer.prefix_ids()),
             token_list(tokenizer, tokenizer.suffix_ids()));

  const Json templates = chat_templates(tokenizer);
  if (templates.empty()) fmt::print("\nchat template   none\n");
  for (const Json& one : templates) {
    if (one.contains("error")) {
      fmt::print("\nchat template   cannot be used\n  {}\n", one["message"].get<std::string>());
      continue;
    }
    std::string roles;
    for (const Json& name : one["roles"]) {
      roles += (roles.empty() ? "" : ", ") + shown(name.get<std::string>());
    }
    fmt::print("\nchat template   {}\n  roles       {}\n  assistant   {}\n",
               shown(one["name"].get<std::string>()), roles.empty() ? "it names none" : roles,
               one["generation_blocks"].get<bool>() ? "marked by {% generation %}"
                                                    : "found by rendering prefixes");
  }
}

}  // namespace engine
