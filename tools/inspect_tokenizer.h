// What `engine inspect` says of a tokenizer and of its chat template.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "tokenizer/tokenizer.h"

namespace engine {

// type, tokens, bos, eos, pad, unk, special_tokens, prefix_ids, suffix_ids, files, chat_templates.
nlohmann::ordered_json tokenizer_facts(const Tokenizer& tokenizer);
// The same for people, to standard output.
void print_tokenizer_facts(const Tokenizer& tokenizer);

}  // namespace engine
