// A tokenizer as tokenise() wants it. A library of its own: the rest of the data room knows no
// tokenizer.
#pragma once

#include <memory>

#include "engine/data/tokenise.h"
#include "tokenizer/tokenizer.h"

namespace engine {

// Without a tokenizer the encoder throws CFG-MISSING (usage) at the first text: rows of token ids
// need none.
TextEncoder make_text_encoder(std::shared_ptr<const Tokenizer> tokenizer);

}  // namespace engine
