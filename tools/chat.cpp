#include "tools/chat.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "tokenizer/chat/assistant_spans.h"
#include "tokenizer/chat/token_mask.h"
#include "tools/json_lines.h"

namespace engine {
namespace {

using Json = nlohmann::ordered_json;

bool flag(const Json& row, const char* key) {
  const auto at = row.find(key);
  if (at == row.end() || at->is_null()) return false;
  if (!at->is_boolean()) {
    throw Error(ExitCode::data, "CHAT-MESSAGES",
                std::string("\"") + key + "\" is not true or false")
        .found(at->type_name());
  }
  return at->get<bool>();
}

// "TemplateError: System role not supported" where a template raised something.
std::string short_text(const Error& error) {
  for (const auto& [label, text] : error.details()) {
    if (label == "raised") return text;
  }
  return error.message();
}

std::string why(const Error& error) {
  for (const auto& [label, text] : error.details()) {
    if (label == "why") return error.message() + ": " + text;
  }
  return short_text(error);
}

Json tokenized(const Tokenizer& tokenizer, const ChatTemplate& chat_template, const Json& row) {
  const Conversation conversation = read_conversation(row);
  const bool prompt = flag(row, "add_generation_prompt");
  const bool open_end = flag(row, "continue_final_message");
  RenderedChat rendered;
  std::string mask_error;
  if (open_end) {
    if (prompt) {
      throw Error(ExitCode::data, "CHAT-MESSAGES",
                  "add_generation_prompt and continue_final_message exclude each other");
    }
    rendered = chat_template.render(conversation, {.continue_final_message = true});
    rendered.assistant.clear();
    mask_error = "the last message is left open";
  } else {
    try {
      rendered = render_with_spans(chat_template, conversation, {.add_generation_prompt = prompt});
    } catch (const Error& error) {
      mask_error = why(error);
      rendered = chat_template.render(conversation, {.add_generation_prompt = prompt});
      rendered.assistant.clear();
    }
  }
  EncodedChat encoded = encode_chat(tokenizer, rendered);
  ensure_bos(tokenizer, encoded);
  Json out;
  out["rendered"] = rendered.text;
  out["ids"] = encoded.ids;
  out["assistant_mask"] = mask_error.empty() ? Json(encoded.assistant_mask) : Json(nullptr);
  if (!mask_error.empty()) out["mask_error"] = mask_error;
  return out;
}

}  // namespace

CLI::Option* add_chat_options(CLI::App& app, ChatArguments& arguments, const std::string& what) {
  auto* chat = app.add_flag("--chat", arguments.chat, what);
  app.add_option("--template", arguments.chat_template,
                 "With --chat: a Jinja file, or the name of one of the tokenizer's templates; "
                 "default: the tokenizer's own")
      ->needs(chat);
  app.add_option(
         "--date", arguments.date,
         "With --chat: YYYY-MM-DD, today for templates that ask; default: what the template "
         "falls back to")
      ->needs(chat);
  return chat;
}

ChatTemplate open_chat_template(const Tokenizer& tokenizer, const ChatArguments& arguments) {
  return ChatTemplate::open(
      tokenizer, chat_template_options(arguments.chat_template, arguments.date, "--date"));
}

ChatPrompt chat_prompt(const Tokenizer& tokenizer, const ChatTemplate& chat_template,
                       const Json& row) {
  const Conversation conversation = read_conversation(row);
  const bool open_end = conversation.messages.back().role == "assistant";
  const RenderedChat rendered = chat_template.render(
      conversation, {.add_generation_prompt = !open_end, .continue_final_message = open_end});
  EncodedChat encoded = encode_chat(tokenizer, {rendered.text, {}});
  ensure_bos(tokenizer, encoded);
  return {rendered.text, std::move(encoded.ids)};
}

void tokenize_chat_rows(const Invocation& invocation, const Tokenizer& tokenizer,
                        const ChatTemplate& chat_template, const std::string& path) {
  LineReader reader(path);
  int64_t rows = 0, errors = 0;
  for (Json row; reader.next_object(row); ++rows) {
    Json out;
    try {
      out = tokenized(tokenizer, chat_template, row);
    } catch (const Error& error) {
      if (error.exit_code() != ExitCode::data) throw;
      out["error"] = short_text(error);
      ++errors;
    }
    fmt::print("{}\n", out.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  if (errors > 0 && invocation.global.verbosity >= 0) {
    fmt::print(stderr, "warn    {} of {} conversations have errors\n", errors, rows);
  }
}

}  // namespace engine
