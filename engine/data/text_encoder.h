// A tokenizer as tokenise() wants it. A library of its own: the rest of the data room knows no
// tokenizer.
#pragma once

#include <memory>

#include "engine/data/tokenise.h"
#include "tokenizer/chat/chat_template.h"
#include "tokenizer/tokenizer.h"

namespace engine {

// Without a tokenizer the encoder throws CFG-MISSING (usage) at the first text: rows of token ids
// need none. The chat template is opened at the first conversation: only those need one.
TextEncoder make_text_encoder(std::shared_ptr<const Tokenizer> tokenizer,
                              const ChatTemplateOptions& chat = {});
// The settings of section `data`.
ChatTemplateOptions chat_template_options(const DataConfig& config);

}  // namespace engine
