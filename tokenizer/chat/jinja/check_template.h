// What Jinja finds out when it compiles a template that it could parse.
#pragma once

#include "tokenizer/chat/jinja/ast.h"

namespace engine::jinja {

// Throws TemplateAssertionError for the first filter or test of which there is none, except where
// Jinja finds out only when it is reached: in conditions and what they guard. And for assignments
// to `loop` within loops.
void check_template(const Body& body);

}  // namespace engine::jinja
