// Which part of a rendered conversation the assistant says, and must be trained on.
#pragma once

#include "tokenizer/chat/chat_template.h"

namespace engine {

enum class AssistantTurns : uint8_t { all, last };

struct AssistantSpanOptions {
  bool add_generation_prompt = false;
  AssistantTurns turns = AssistantTurns::all;
};

// Renders the conversation and finds the spans of its assistant messages, without those that say
// train: false.
//
// Where the template has {% generation %} blocks, they are the spans, as in transformers: of nested
// blocks the outer one. transformers marks other text than a block's own where a macro, a {% set %}
// block or a recursive loop prints something before it; that is refused here. Elsewhere the span of
// message i is what the rendering of the first i + 1 messages has behind the rendering of the first
// i with a generation prompt: all that the model has to write, up to and including the token that
// ends its turn. That holds only if the renderings are prefixes of each other (but for an
// end-of-text token behind the last message); a template that rewrites earlier turns has no such
// spans.
//
// Throws CHAT-PREFIX (exit code data), naming the message, when the spans cannot be told, and what
// ChatTemplate::render throws.
RenderedChat render_with_spans(const ChatTemplate& chat_template, const Conversation& conversation,
                               const AssistantSpanOptions& options);

// Renders a conversation in two parts; the span is the completion: what is behind the rendering of
// the prompt with a generation prompt. Throws CHAT-PREFIX when the text does not begin with that,
// and what ChatTemplate::render throws.
RenderedChat render_with_completion(const ChatTemplate& chat_template,
                                    const Conversation& conversation);

}  // namespace engine
