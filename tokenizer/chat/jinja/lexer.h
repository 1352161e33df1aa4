// A template as tokens, with the white space control of Jinja as transformers sets it up:
// trim_blocks, lstrip_blocks, one trailing newline dropped.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/chat/jinja/value.h"

namespace engine::jinja {

enum class TokenKind : uint8_t {
  text,         // between tags
  print_begin,  // {{
  print_end,
  block_begin,  // {%
  block_end,
  name,
  string,
  number,
  symbol,  // operators and brackets
  end
};

struct Token {
  TokenKind kind;
  int line;
  std::string text;  // as written; of strings and texts: their content
  Value number;

  bool is_symbol(std::string_view what) const { return kind == TokenKind::symbol && text == what; }
  bool is_name(std::string_view what) const { return kind == TokenKind::name && text == what; }
};

// Ends with a token of kind `end`. `source` is valid UTF-8. Throws TemplateSyntaxError.
std::vector<Token> tokenize(std::string_view source);

}  // namespace engine::jinja
