// What a template expects of its input, told from the comparisons it makes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/chat/jinja/parser.h"

namespace engine::jinja {

// Constant strings that the template compares a value of the name `key` with, each once, in the
// order of the template: of "role" those in `message["role"] == "user"`, `message.role != "user"`
// and `role in ["user", "tool"]`.
std::vector<std::string> compared_texts(const Template& parsed, std::string_view key);

}  // namespace engine::jinja
