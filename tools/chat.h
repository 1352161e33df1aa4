// What verbs that take conversations share.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "tokenizer/chat/chat_template.h"
#include "tools/verb.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace engine {

struct ChatArguments {
  bool chat = false;
  std::string chat_template, date;
};

// --chat, --template, --date. Returns --chat, for others to exclude.
CLI::Option* add_chat_options(CLI::App& app, ChatArguments& arguments, const std::string& what);
ChatTemplate open_chat_template(const Tokenizer& tokenizer, const ChatArguments& arguments);

// The text that a model is given to answer a conversation, and its ids. `row` is
// {"messages"[, "tools", ...]}; the text ends where the assistant is to begin or, when the last
// message is the assistant's, within that message.
struct ChatPrompt {
  std::string text;
  std::vector<int32_t> ids;
};
ChatPrompt chat_prompt(const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                       const nlohmann::ordered_json& row);

// {"messages"[, "tools", "add_generation_prompt", ...]} of each line of `path` gives
// {"rendered", "ids", "assistant_mask"}, or {"error"}. Where the mask cannot be told it is null,
// and "mask_error" says why.
void tokenize_chat_rows(const Invocation& invocation, const Tokenizer& tokenizer,
                        const ChatTemplate& chat_template, const std::string& path);

}  // namespace engine
