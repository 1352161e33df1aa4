// Numbers and strings as a template writes them.
#pragma once

#include <string>
#include <string_view>

#include "tokenizer/chat/jinja/value.h"

namespace engine::jinja {

struct Literal {
  size_t size = 0;   // bytes of the source
  std::string text;  // of a number without underscores and prefix; of a string its content
  Value value;       // of a number
};

// The number that begins with the digit at `at`. Behind a dot it is an integer: x.0.1 is x[0][1].
// Throws TemplateSyntaxError, without a line, for integers of more than 64 bits.
Literal read_number(std::string_view source, size_t at);
// The string that begins with the quote at `at`, with the escapes of Python. Throws
// TemplateSyntaxError, without a line.
Literal read_string(std::string_view source, size_t at);

}  // namespace engine::jinja
