#include "tokenizer/chat/conversation.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "engine/core/error.h"
#include "engine/core/json.h"
#include "tokenizer/chat/json_value.h"

namespace engine {
namespace {

using Json = nlohmann::ordered_json;
using jinja::Value;

constexpr std::pair<std::string_view, std::string_view> kOtherRoles[] = {
    {"human", "user"},
    {"gpt", "assistant"},
    {"model", "assistant"},
    {"bot", "assistant"},
    {"observation", "tool"},
    {"function_response", "tool"},
    {"function_call", "assistant"}};
// Names a message's reasoning goes by; the first is the standard one.
constexpr const char* kReasoning[] = {"reasoning_content", "thinking", "reasoning"};

Error malformed(const std::string& where, const std::string& expected, const Json& found) {
  return Error(ExitCode::data, "CHAT-MESSAGES", where + " is not " + expected)
      .found(found.is_null() ? "null" : std::string(found.type_name()));
}

struct RoleAndContent {
  std::string role, content;
  bool foreign = false;  // "from" and "value"
};

RoleAndContent field_names(const Json& message, const ConversationFields& fields) {
  RoleAndContent names{fields.role.empty() ? "role" : fields.role,
                       fields.content.empty() ? "content" : fields.content};
  if (fields.role.empty() && fields.content.empty() && !message.contains("role") &&
      message.contains("from") && message.contains("value")) {
    names = {"from", "value", true};
  }
  names.foreign |= names.role == "from";
  return names;
}

std::string usual_role(const std::string& role) {
  for (const auto& [other, usual] : kOtherRoles) {
    if (role == other) return std::string(usual);
  }
  return role;
}

// {"thinking": reasoning, **message, "reasoning_content": reasoning}
Value with_reasoning(const std::shared_ptr<jinja::DictObject>& message) {
  for (const char* name : kReasoning) {
    const Value* reasoning = message->find(std::string_view(name));
    if (!reasoning) continue;
    auto extended = std::make_shared<jinja::DictObject>();
    extended->set("thinking", *reasoning);
    for (const auto& [key, value] : message->entries()) extended->set(key.text(), value);
    extended->set("reasoning_content", *reasoning);
    return Value::object(jinja::Type::dict, std::move(extended));
  }
  return Value::object(jinja::Type::dict, message);
}

Conversation::Message read_message(const Json& json, const std::string& where,
                                   const ConversationFields& fields) {
  if (!json.is_object()) throw malformed(where, "an object with \"role\" and \"content\"", json);
  const RoleAndContent names = field_names(json, fields);
  const auto role = json.find(names.role);
  if (role == json.end() || !role->is_string()) {
    std::string keys;
    for (const auto& [key, value] : json.items()) keys += (keys.empty() ? "" : ", ") + key;
    throw Error(ExitCode::data, "CHAT-MESSAGES", where + " has no \"" + names.role + "\"")
        .found(keys.empty() ? "no fields" : keys)
        .expected("\"role\": \"system\", \"user\", \"assistant\" or \"tool\"");
  }
  Conversation::Message message;
  message.place = where;
  message.role = role->get<std::string>();
  if (names.foreign) message.role = usual_role(message.role);
  auto dict = std::make_shared<jinja::DictObject>();
  for (const auto& [key, value] : json.items()) {
    if (key == "train" || key == "weight") {
      const bool number = value.is_number();
      if (!number && !value.is_boolean() && !value.is_null()) {
        throw malformed(where + "." + key, "true or false, or 1 or 0", value);
      }
      if (number && value.get<double>() != 0 && value.get<double>() != 1) {
        throw malformed(where + "." + key, "1 or 0", value)
            .why("messages are trained on or not; other weights are not supported");
      }
      if (!value.is_null()) message.train = number ? value.get<double>() != 0 : value.get<bool>();
    } else if (key == names.role) {
      dict->set("role", Value::string(message.role));
    } else if (!value.is_null()) {
      dict->set(key == names.content ? "content" : key, json_value(value));
    }
  }
  message.fields = with_reasoning(dict);
  return message;
}

// A list of objects in `key`; none when it is absent or null.
Value read_list(const Json& row, const std::string& key) {
  const auto at = row.find(key);
  if (at == row.end() || at->is_null()) return {};
  Json list = *at;
  if (list.is_string()) {
    const auto& text = at->get_ref<const std::string&>();
    const bool deep = find_deep_nesting(text) != std::string::npos;
    list = deep ? Json() : Json::parse(text, nullptr, false);
  }
  if (!list.is_array()) throw malformed("\"" + key + "\"", "a list of objects", *at);
  for (size_t i = 0; i < list.size(); ++i) {
    if (!list[i].is_object()) {
      throw malformed(fmt::format("{}[{}]", key, i), "an object", list[i]);
    }
  }
  return json_value(list);
}

void read_messages(const Json& row, const std::string& key, const ConversationFields& fields,
                   Conversation& conversation) {
  const auto messages = row.find(key);
  if (messages == row.end() || !messages->is_array()) {
    throw malformed("\"" + key + "\"", "a list of messages",
                    messages == row.end() ? Json() : *messages);
  }
  if (messages->empty()) {
    throw Error(ExitCode::data, "CHAT-MESSAGES",
                fields.completion.empty() ? "the conversation has no messages"
                                          : "\"" + key + "\" has no messages");
  }
  for (size_t i = 0; i < messages->size(); ++i) {
    conversation.messages.push_back(
        read_message((*messages)[i], fmt::format("{}[{}]", key, i), fields));
  }
}

}  // namespace

Conversation read_conversation(const Json& row, const ConversationFields& fields) try {
  Conversation conversation;
  read_messages(row, fields.messages, fields, conversation);
  if (!fields.completion.empty()) {
    conversation.prompt_size = conversation.messages.size();
    read_messages(row, fields.completion, fields, conversation);
  }
  conversation.tools = read_list(row, fields.tools);
  conversation.documents = read_list(row, "documents");
  const auto variables = row.find("chat_template_kwargs");
  if (variables != row.end() && !variables->is_null()) {
    if (!variables->is_object()) {
      throw malformed("\"chat_template_kwargs\"", "an object", *variables);
    }
    for (const auto& [key, value] : variables->items()) {
      conversation.variables.emplace_back(key, json_value(value));
    }
  }
  return conversation;
} catch (const jinja::TemplateError& error) {  // nested too deep
  throw Error(ExitCode::data, "CHAT-MESSAGES", error.message());
}

}  // namespace engine
