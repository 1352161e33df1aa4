// A model's chat template: conversations to the text that the model was trained on.
//
// Renders what transformers' apply_chat_template renders. A template is untrusted code; it is run
// within bounds (jinja/error.h).
#pragma once

#include <ctime>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/chat/conversation.h"
#include "tokenizer/chat/jinja/interpreter.h"
#include "tokenizer/tokenizer.h"

namespace engine {

struct ChatTemplateOptions {
  // A template to use instead of the tokenizer's, and its name in messages.
  std::string text, text_name;
  // Which of several templates; empty: "tool_use" for conversations with tools, if there is one,
  // else "default".
  std::string name;
  // What strftime_now() in a template takes for today. Nothing: it is not defined, and templates
  // fall back to a date of their own, so that texts do not depend on the day.
  std::optional<std::tm> date;
  jinja::Limits limits;

  // Empty for the tokenizer's own template; else all of the above that renderings depend on, for
  // keys of caches.
  std::string identity() const;
};

struct RenderedChat {
  std::string text;
  // Bytes of `text` that the assistant says, in order, not overlapping; some may be empty.
  std::vector<jinja::Span> assistant;
  // Some {% generation %} block is not where transformers takes it to be: then `assistant` is
  // empty.
  bool misplaced_blocks = false;
};

struct ChatRenderOptions {
  bool add_generation_prompt = false;
  // Leaves the last message open: the text ends with it.
  bool continue_final_message = false;
  // Only so many of the first messages; nothing: all.
  std::optional<size_t> num_messages;
};

// Immutable; const methods may be called from several threads at once.
class ChatTemplate {
 public:
  // The template of a tokenizer's files: chat_template.jinja and
  // additional_chat_templates/NAME.jinja; else chat_template of tokenizer_config.json, one or a
  // list of {name, template}; else chat_template.json. Templates see bos_token, eos_token,
  // unk_token, sep_token, pad_token, cls_token and mask_token where the files name them. Throws
  // CHAT-TEMPLATE (there is none, or not of that name) and CHAT-SYNTAX, exit code checkpoint.
  static ChatTemplate open(const Tokenizer& tokenizer, const ChatTemplateOptions& options = {});

  // Is there a template among the tokenizer's files?
  static bool available(const Tokenizer& tokenizer);

  // `assistant` is what {% generation %} blocks made, the outer ones of nested blocks. Throws
  // CHAT-RENDER (exit code data): the template raises an error, whose Python name and text the
  // label "raised" has.
  RenderedChat render(const Conversation& conversation, const ChatRenderOptions& options) const;

  // The template that is used for the conversation marks what the assistant says.
  bool has_generation_blocks(const Conversation& conversation) const;

  // What is known of each template without rendering it, by name.
  struct Facts {
    std::string name;  // "default"
    bool has_generation_blocks = false;
    std::vector<std::string> roles;  // that it compares a message's role with
  };
  std::vector<Facts> facts() const;

  // The end-of-text token that templates see; empty when there is none.
  const std::string& eos_token() const { return eos_token_; }

 private:
  struct Named {
    std::string text;
    std::shared_ptr<const jinja::Template> parsed;
  };
  const Named& select(const Conversation& conversation) const;

  std::map<std::string, Named> templates_;
  std::string chosen_;  // name that was asked for
  std::vector<std::pair<std::string, std::string>> special_tokens_;
  std::string eos_token_;
  jinja::RenderOptions render_options_;
};

// What users say: `source` is a file with a template, or the name of one of the tokenizer's, or
// empty; `date` is YYYY-MM-DD or empty. Throws IO-MISSING or IO-READ (usage) for a file that cannot
// be read, and CFG-RANGE naming `date_option`.
ChatTemplateOptions chat_template_options(const std::string& source, const std::string& date,
                                          const std::string& date_option);

}  // namespace engine
