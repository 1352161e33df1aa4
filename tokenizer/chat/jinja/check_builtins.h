// Filters and tests that do not exist.
#pragma once

#include "tokenizer/chat/jinja/ast.h"

namespace engine::jinja {

// Throws TemplateAssertionError for the first filter or test of which there is none, except where
// Jinja finds out only when it is reached: in conditions and what they guard.
void check_builtins(const Body& body);

}  // namespace engine::jinja
