// Conversations as data sets and programs write them.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tokenizer/chat/jinja/value.h"

namespace engine {

// Names of fields. Role and content: of a message; empty: "role" and "content", or "from" and
// "value" in messages that have those instead.
struct ConversationFields {
  std::string messages = "messages";
  std::string completion;  // where the conversation goes on; empty: it does not
  std::string tools = "tools";
  std::string role, content;
};

// What a template sees of a row, as transformers prepares it: members of a message that are null
// are left out, and the reasoning of a message ("reasoning_content", "thinking" or "reasoning") is
// also there as "reasoning_content" and "thinking". "train" and "weight" of a message are for us
// and not shown to the template.
struct Conversation {
  struct Message {
    jinja::Value fields;  // a dict
    std::string role;
    std::string place;  // in the row: "messages[2]"
    bool train = true;  // false: train: false or weight: 0
  };
  std::vector<Message> messages;  // at least one
  size_t prompt_size = 0;         // so many of them come before the completion, if there is one
  jinja::Value tools;             // a list, or none
  jinja::Value documents;         // a list, or none
  // chat_template_kwargs: more variables, such as enable_thinking.
  std::vector<std::pair<std::string, jinja::Value>> variables;
};

// Reads messages, those of the completion, tools (a list, or its JSON as a string), documents and
// chat_template_kwargs of a row. In messages with "from" and "value" the usual roles have other
// names: human is user; gpt, model and bot are assistant; observation and function_response are
// tool; function_call is assistant. Throws CHAT-MESSAGES (exit code data), naming the place within
// the row.
Conversation read_conversation(const nlohmann::ordered_json& row,
                               const ConversationFields& fields = {});

}  // namespace engine
