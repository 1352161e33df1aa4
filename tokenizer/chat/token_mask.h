// Token ids of a rendered conversation, and which of them the assistant says.
#pragma once

#include <cstdint>
#include <vector>

#include "tokenizer/chat/chat_template.h"

namespace engine {

struct EncodedChat {
  std::vector<int32_t> ids;
  std::vector<uint8_t> assistant_mask;  // 1 where a token is of the assistant, else 0
};

// The ids of the whole text, special tokens read from it and none added: the template has written
// BOS, if there is one. A token belongs to a span when any of its characters does, as in
// transformers' return_assistant_tokens_mask.
EncodedChat encode_chat(const Tokenizer& tokenizer, const RenderedChat& chat);

// Puts BOS before the ids where the tokenizer puts it before texts and the template wrote none.
void ensure_bos(const Tokenizer& tokenizer, EncodedChat& chat);

}  // namespace engine
