#include "tokenizer/chat/assistant_spans.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/core/error.h"

namespace engine {
namespace {

constexpr std::string_view kAssistant = "assistant";

// Places of the assistant's messages that are trained on.
std::vector<size_t> selected_messages(const Conversation& conversation, AssistantTurns turns) {
  std::vector<size_t> selected;
  for (size_t i = 0; i < conversation.messages.size(); ++i) {
    const Conversation::Message& message = conversation.messages[i];
    if (message.role == kAssistant && message.train) selected.push_back(i);
  }
  if (turns == AssistantTurns::last && selected.size() > 1) {
    selected.erase(selected.begin(), selected.end() - 1);
  }
  return selected;
}

Error prefix_error(const Conversation& conversation, size_t message, const std::string& what) {
  return Error(ExitCode::data, "CHAT-PREFIX",
               conversation.messages[message].place +
                   ": what the assistant says there cannot be told apart")
      .why(what)
      .fix(
          "a template with {% generation %} blocks (--template, data.chat_template), or "
          "data.train_on=last");
}

// The spans of generation blocks that belong to the selected messages.
void select_spans(const Conversation& conversation, const std::vector<size_t>& selected,
                  RenderedChat& rendered) {
  if (rendered.misplaced_blocks) {
    throw Error(ExitCode::data, "CHAT-PREFIX",
                "what the assistant says cannot be told: a {% generation %} block is out of place")
        .why(
            "it stands in a macro, a {% set %} or {% filter %} block or a recursive loop that "
            "prints something before it: transformers marks other text then")
        .fix("a template that prints its {% generation %} blocks directly");
  }
  std::vector<size_t> assistants;
  for (size_t i = 0; i < conversation.messages.size(); ++i) {
    if (conversation.messages[i].role == kAssistant) assistants.push_back(i);
  }
  if (assistants.size() == selected.size()) return;
  if (assistants.size() != rendered.assistant.size()) {
    throw prefix_error(
        conversation, selected.empty() ? assistants.front() : selected.front(),
        fmt::format("the template marks {} passages for {} messages of the assistant, so they "
                    "cannot be chosen one by one",
                    rendered.assistant.size(), assistants.size()));
  }
  std::vector<jinja::Span> spans;
  for (const size_t message : selected) {
    const auto at = std::find(assistants.begin(), assistants.end(), message);
    spans.push_back(rendered.assistant[static_cast<size_t>(at - assistants.begin())]);
  }
  rendered.assistant = std::move(spans);
}

// Bytes of `text` that the beginning `part` of a conversation fills; nothing if `text` does not
// begin with it. Some templates put an end-of-text token behind the last message only.
std::optional<size_t> prefix_size(const std::string& text, const std::string& part,
                                  const std::string& eos_token) {
  if (text.starts_with(part)) return part.size();
  if (!eos_token.empty() && part.ends_with(eos_token)) {
    const std::string_view shorter =
        std::string_view(part).substr(0, part.size() - eos_token.size());
    if (text.starts_with(shorter)) return shorter.size();
  }
  return std::nullopt;
}

void find_spans(const ChatTemplate& chat_template, const Conversation& conversation,
                const std::vector<size_t>& selected, RenderedChat& rendered) {
  const std::string& text = rendered.text;
  size_t last_end = 0;
  for (const size_t i : selected) {
    if (i == 0) {
      throw prefix_error(conversation, i, "no message comes before it, and templates need one");
    }
    const std::string before =
        chat_template.render(conversation, {.add_generation_prompt = true, .num_messages = i}).text;
    const std::string turn = chat_template.render(conversation, {.num_messages = i + 1}).text;
    const std::optional<size_t> end = prefix_size(text, turn, chat_template.eos_token());
    if (!turn.starts_with(before) || !end || before.size() > *end || before.size() < last_end) {
      throw prefix_error(conversation, i,
                         end ? "the template does not print the generation prompt there"
                             : "the template prints this turn differently once others follow");
    }
    if (before.size() < *end) rendered.assistant.push_back({before.size(), *end});
    last_end = *end;
  }
}

}  // namespace

RenderedChat render_with_spans(const ChatTemplate& chat_template, const Conversation& conversation,
                               const AssistantSpanOptions& options) {
  RenderedChat rendered =
      chat_template.render(conversation, {.add_generation_prompt = options.add_generation_prompt});
  const std::vector<size_t> selected = selected_messages(conversation, options.turns);
  if (chat_template.has_generation_blocks(conversation)) {
    select_spans(conversation, selected, rendered);
  } else {
    find_spans(chat_template, conversation, selected, rendered);
  }
  return rendered;
}

RenderedChat render_with_completion(const ChatTemplate& chat_template,
                                    const Conversation& conversation) {
  RenderedChat rendered = chat_template.render(conversation, {});
  const std::string prompt = chat_template
                                 .render(conversation, {.add_generation_prompt = true,
                                                        .num_messages = conversation.prompt_size})
                                 .text;
  if (!rendered.text.starts_with(prompt)) {
    throw prefix_error(conversation, conversation.prompt_size,
                       "the template prints the prompt differently once the completion follows");
  }
  rendered.assistant = {{prompt.size(), rendered.text.size()}};
  return rendered;
}

}  // namespace engine
