#include "tokenizer/chat/chat_template.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "engine/core/error.h"
#include "engine/core/file_io.h"
#include "engine/core/json.h"
#include "tokenizer/chat/jinja/compared_texts.h"
#include "tokenizer/chat/jinja/text.h"
#include "tokenizer/unicode.h"

namespace engine {
namespace {

using Json = nlohmann::json;
using jinja::Value;

constexpr const char* kSpecialTokens[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                          "pad_token", "cls_token", "mask_token"};
constexpr std::string_view kAdditional = "additional_chat_templates/";

const std::string* find_file(const Tokenizer& tokenizer, std::string_view name) {
  for (const TokenizerFile& file : tokenizer.files()) {
    if (file.name == name) return &file.contents;
  }
  return nullptr;
}

Json read_json(const Tokenizer& tokenizer, std::string_view name) {
  const std::string* contents = find_file(tokenizer, name);
  if (!contents) return {};
  try {
    return parse_json<Json>(*contents);
  } catch (const Json::parse_error& error) {
    throw Error(ExitCode::checkpoint, "CHAT-TEMPLATE", std::string(name) + " is not valid JSON")
        .found(error.what());
  }
}

// The templates of the files by name. As transformers: jinja files hide all others.
std::map<std::string, std::string> template_texts(const Tokenizer& tokenizer) {
  std::map<std::string, std::string> texts;
  for (const TokenizerFile& file : tokenizer.files()) {
    if (file.name == "chat_template.jinja") {
      texts["default"] = file.contents;
    } else if (file.name.starts_with(kAdditional)) {
      const std::string name = file.name.substr(kAdditional.size());
      texts[name.substr(0, name.rfind('.'))] = file.contents;
    }
  }
  if (!texts.empty()) return texts;
  for (const char* name : {"tokenizer_config.json", "chat_template.json"}) {
    const Json json = read_json(tokenizer, name);
    if (!json.is_object() || !json.contains("chat_template")) continue;
    const Json& entry = json["chat_template"];
    if (entry.is_string()) texts["default"] = entry.get<std::string>();
    if (entry.is_array()) {
      for (const Json& item : entry) {
        if (!item.is_object() || !item.contains("name") || !item["name"].is_string() ||
            !item.contains("template") || !item["template"].is_string()) {
          throw Error(ExitCode::checkpoint, "CHAT-TEMPLATE",
                      std::string(name) + ": chat_template is malformed")
              .expected("a text, or a list of {\"name\", \"template\"}");
        }
        texts[item["name"].get<std::string>()] = item["template"].get<std::string>();
      }
    }
    if (!texts.empty()) return texts;
  }
  return texts;
}

std::tm parse_date(const std::string& text, const std::string& option) {
  std::tm date{};
  int end = 0;
  const int fields =
      std::sscanf(text.c_str(), "%4d-%2d-%2d%n", &date.tm_year, &date.tm_mon, &date.tm_mday, &end);
  date.tm_year -= 1900;
  date.tm_mon -= 1;
  std::tm normal = date;
  // timegm() sets the weekday, and turns a 31st of February into another day.
  const bool exists = fields == 3 && static_cast<size_t>(end) == text.size() &&
                      timegm(&normal) != -1 && normal.tm_mday == date.tm_mday &&
                      normal.tm_mon == date.tm_mon;
  if (!exists) {
    throw Error(ExitCode::usage, "CFG-RANGE", option + ": not a date")
        .expected("YYYY-MM-DD, such as 2024-07-26")
        .found(text);
  }
  return normal;
}

// Where the files do not name a token, the tokenizer may know it.
std::optional<std::string> role_token(const Tokenizer& tokenizer, std::string_view key) {
  const TokenRoles& roles = tokenizer.roles();
  const std::optional<int32_t> id = key == "bos_token"   ? roles.bos
                                    : key == "eos_token" ? roles.eos
                                    : key == "pad_token" ? roles.pad
                                    : key == "unk_token" ? roles.unk
                                                         : std::nullopt;
  return id ? tokenizer.id_to_token(*id) : std::nullopt;
}

std::vector<std::pair<std::string, std::string>> special_tokens(const Tokenizer& tokenizer) {
  const Json config = read_json(tokenizer, "tokenizer_config.json");
  const Json map = read_json(tokenizer, "special_tokens_map.json");
  std::vector<std::pair<std::string, std::string>> tokens;
  for (const char* key : kSpecialTokens) {
    bool said = false;  // null means: there is none
    for (const Json* json : {&config, &map}) {
      if (said || !json->is_object() || !json->contains(key)) continue;
      said = true;
      const Json& entry = (*json)[key];
      const Json& content =
          entry.is_object() && entry.contains("content") ? entry["content"] : entry;
      if (content.is_string()) tokens.emplace_back(key, content.get<std::string>());
    }
    if (said) continue;
    if (const auto token = role_token(tokenizer, key)) tokens.emplace_back(key, *token);
  }
  return tokens;
}

Error render_error(const jinja::TemplateError& error) {
  const bool refused = error.type() == "TemplateError";
  Error result(ExitCode::data, "CHAT-RENDER",
               refused ? "the chat template refuses the conversation: " + error.message()
                       : "the chat template fails on the conversation");
  result.with("raised", error.what());
  if (error.line() > 0) result.where(fmt::format("line {} of the template", error.line()));
  if (error.message().find("'strftime_now'") != std::string::npos) {
    result.fix("give the date that the template asks for: --date YYYY-MM-DD, or data.chat_date");
  }
  return result;
}

constexpr std::string_view kContinueTag = "CONTINUE_FINAL_MESSAGE_TAG ";

Error cannot_continue(const std::string& why) {
  return Error(ExitCode::data, "CHAT-MESSAGES", "the last message cannot be continued").why(why);
}

// The last message with the tag behind its content, and that content.
std::pair<Value, std::string> tagged(const Value& message) {
  const Value* content = message.dict().find(std::string_view("content"));
  if (!content) throw cannot_continue("it has no content");
  const auto with = [&message](Value value) {
    auto dict = std::make_shared<jinja::DictObject>();
    for (const auto& [key, old] : message.dict().entries()) dict->set(key.text(), old);
    dict->set("content", std::move(value));
    return Value::object(jinja::Type::dict, std::move(dict));
  };
  const auto extended = [](const Value& text) {
    return Value::string(text.text() + std::string(kContinueTag));
  };
  if (content->is_string()) return {with(extended(*content)), content->text()};
  if (!content->is_sequence()) throw cannot_continue("its content is no text");
  std::vector<Value> blocks = content->items();
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
    const Value* text = block->is_dict() ? block->dict().find(std::string_view("text")) : nullptr;
    if (!text || !text->is_string()) continue;
    const std::string original = text->text();
    auto dict = std::make_shared<jinja::DictObject>();
    for (const auto& [key, old] : block->dict().entries()) dict->set(key.text(), old);
    dict->set("text", extended(*text));
    *block = Value::object(jinja::Type::dict, std::move(dict));
    return {with(Value::list(std::move(blocks))), original};
  }
  throw cannot_continue("it has no text");
}

// Cuts the text behind what is to be continued.
void cut_at_tag(const std::string& final_content, std::string& text) {
  const std::string_view tag = jinja::strip_right(kContinueTag);
  const size_t at = text.rfind(tag);
  if (at == std::string::npos || text.find(jinja::strip(final_content)) == std::string::npos) {
    throw cannot_continue("the template does not print its content as it is");
  }
  const bool spaced = std::string_view(text).substr(at).starts_with(kContinueTag);
  text.resize(at);
  if (!spaced) text.resize(jinja::strip_right(text).size());  // the template trimmed it
}

// The spans of blocks, where transformers finds the same ones.
void place_blocks(const std::vector<jinja::GenerationBlock>& blocks, RenderedChat& chat) {
  size_t inner_end = 0;  // of the blocks within the next one
  size_t last_end = 0;
  for (const jinja::GenerationBlock& block : blocks) {
    const jinja::Span& span = block.span;
    if (block.nested) {  // adds nothing to the one around it, unless it reaches further
      inner_end = std::max(inner_end, span.end);
      continue;
    }
    if (!block.in_place || span.begin < last_end || inner_end > span.end) {
      chat.assistant.clear();
      chat.misplaced_blocks = true;
      return;
    }
    chat.assistant.push_back(span);
    last_end = span.end;
    inner_end = 0;
  }
}

}  // namespace

std::string ChatTemplateOptions::identity() const {
  std::string result;
  if (!name.empty()) result += "name " + name + "\n";
  if (!text.empty()) result += "template " + text + "\n";
  if (date) result += fmt::format("date {}-{}-{}", date->tm_year, date->tm_mon, date->tm_mday);
  return result;
}

ChatTemplate ChatTemplate::open(const Tokenizer& tokenizer, const ChatTemplateOptions& options) {
  std::map<std::string, std::string> texts;
  if (!options.text.empty()) {
    texts["default"] = options.text;
  } else {
    texts = template_texts(tokenizer);
  }
  if (texts.empty()) {
    throw Error(ExitCode::checkpoint, "CHAT-TEMPLATE", "the tokenizer has no chat template")
        .expected("chat_template.jinja, or \"chat_template\" in tokenizer_config.json")
        .why("a base model, or its files are not all there")
        .fix("a template of your own: --template FILE, or data.chat_template in a config");
  }
  ChatTemplate result;
  result.chosen_ = options.name;
  for (const auto& [name, text] : texts) {
    const std::string shown = !options.text_name.empty() ? options.text_name : name;
    if (tokenizer::find_invalid_utf8(text) != std::string::npos) {
      throw Error(ExitCode::checkpoint, "CHAT-SYNTAX", "the chat template is not valid UTF-8")
          .where(shown);
    }
    try {
      result.templates_[name] = {text, std::make_shared<const jinja::Template>(jinja::parse(text))};
    } catch (const jinja::TemplateError& error) {
      throw Error(ExitCode::checkpoint, "CHAT-SYNTAX", "the chat template does not parse")
          .where(fmt::format("{}:{}", shown, error.line()))
          .with("raised", error.what());
    }
  }
  if (!options.name.empty() && !result.templates_.contains(options.name)) {
    std::string names;
    for (const auto& [name, text] : texts) names += (names.empty() ? "" : ", ") + name;
    throw Error(ExitCode::checkpoint, "CHAT-TEMPLATE",
                "the tokenizer has no chat template \"" + options.name + "\"")
        .found(names);
  }
  result.special_tokens_ = special_tokens(tokenizer);
  for (const auto& [name, token] : result.special_tokens_) {
    if (name == "eos_token") result.eos_token_ = token;
  }
  result.render_options_.limits = options.limits;
  result.render_options_.now = options.date;
  return result;
}

bool ChatTemplate::available(const Tokenizer& tokenizer) {
  return !template_texts(tokenizer).empty();
}

const ChatTemplate::Named& ChatTemplate::select(const Conversation& conversation) const {
  if (!chosen_.empty()) return templates_.at(chosen_);
  if (!conversation.tools.is_none()) {
    if (const auto at = templates_.find("tool_use"); at != templates_.end()) return at->second;
  }
  const auto at = templates_.find("default");
  if (at == templates_.end()) {
    throw Error(ExitCode::checkpoint, "CHAT-TEMPLATE",
                "the tokenizer has several chat templates and none is \"default\"")
        .fix("name one: --template NAME, or data.chat_template");
  }
  return at->second;
}

bool ChatTemplate::has_generation_blocks(const Conversation& conversation) const {
  return select(conversation).parsed->has_generation;
}

std::vector<ChatTemplate::Facts> ChatTemplate::facts() const {
  std::vector<Facts> all;
  for (const auto& [name, entry] : templates_) {
    all.push_back(
        {name, entry.parsed->has_generation, jinja::compared_texts(*entry.parsed, "role")});
  }
  return all;
}

RenderedChat ChatTemplate::render(const Conversation& conversation,
                                  const ChatRenderOptions& options) const {
  const jinja::Template& parsed = *select(conversation).parsed;
  const size_t count = options.num_messages.value_or(conversation.messages.size());
  std::vector<Value> messages;
  for (size_t i = 0; i < count; ++i) messages.push_back(conversation.messages[i].fields);
  std::string final_content;
  if (options.continue_final_message) {
    if (messages.empty()) throw cannot_continue("there is no message");
    std::tie(messages.back(), final_content) = tagged(messages.back());
  }
  jinja::DictObject variables;
  for (const auto& [name, token] : special_tokens_) variables.set(name, Value::string(token));
  for (const auto& [name, value] : conversation.variables) variables.set(name, value);
  RenderedChat result;
  try {
    variables.set("messages", Value::list(std::move(messages)));
    variables.set("tools", conversation.tools);
    variables.set("documents", conversation.documents);
    variables.set("add_generation_prompt", Value::boolean(options.add_generation_prompt));
    jinja::Rendering rendering = jinja::render(parsed, variables, render_options_);
    result.text = std::move(rendering.text);
    place_blocks(rendering.generations, result);
  } catch (const jinja::TemplateError& error) {
    throw render_error(error);
  }
  if (options.continue_final_message) cut_at_tag(final_content, result.text);
  return result;
}

ChatTemplateOptions chat_template_options(const std::string& source, const std::string& date,
                                          const std::string& date_option) {
  ChatTemplateOptions options;
  std::error_code ignored;
  const bool plain = source.find_first_of("/.") == std::string::npos;
  if (plain && !std::filesystem::is_regular_file(source, ignored)) {
    options.name = source;
  } else {
    options.text = read_text_file(source, ExitCode::usage);
    options.text_name = source;
    if (options.text.empty()) {
      throw Error(ExitCode::checkpoint, "CHAT-TEMPLATE", source + " is empty");
    }
  }
  if (!date.empty()) options.date = parse_date(date, date_option);
  return options;
}

}  // namespace engine
