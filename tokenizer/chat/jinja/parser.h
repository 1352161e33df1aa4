// Templates from text.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tokenizer/chat/jinja/ast.h"

namespace engine::jinja {

// A parsed template; immutable.
struct Template {
  Body body;
  UnsetNames unset;
  std::vector<std::string> names;  // by symbol
  bool has_generation = false;     // it has {% generation %} blocks
};

// `source` is valid UTF-8. Throws TemplateError of type TemplateSyntaxError, or LimitError when it
// is nested absurdly deep, or UnsupportedError for tags that need other templates (extends,
// include, import, block) or that are left out (autoescape).
Template parse(std::string_view source);

}  // namespace engine::jinja
