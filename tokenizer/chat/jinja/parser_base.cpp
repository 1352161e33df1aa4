#include "tokenizer/chat/jinja/parser_base.h"

#include <algorithm>

#include "tokenizer/chat/jinja/print.h"

namespace engine::jinja {

std::string describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::text:
      return "template data / text";
    case TokenKind::print_begin:
      return "begin of print statement";
    case TokenKind::print_end:
      return "end of print statement";
    case TokenKind::block_begin:
      return "begin of statement block";
    case TokenKind::block_end:
      return "end of statement block";
    case TokenKind::string:
      return "string";
    case TokenKind::number:
      return token.number.is(Type::integer) ? "integer" : "float";
    case TokenKind::end:
      return "end of template";
    default:
      return token.text;
  }
}

ExpressionParser::ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {
  for (const char* reserved : {"loop", "caller", "varargs", "kwargs"}) symbol(reserved);
}

int32_t ExpressionParser::symbol(const std::string& name) {
  const auto [at, inserted] = symbols_.try_emplace(name, static_cast<int32_t>(names_.size()));
  if (inserted) names_.push_back(name);
  return at->second;
}

void ExpressionParser::fail(const std::string& message, int line) const {
  throw TemplateError("TemplateSyntaxError", message, line > 0 ? line : current().line);
}

void ExpressionParser::too_deep() const {
  throw TemplateError("LimitError", "the template is nested too deep", current().line);
}

bool ExpressionParser::skip_symbol(std::string_view symbol) {
  if (!current().is_symbol(symbol)) return false;
  take();
  return true;
}

bool ExpressionParser::skip_name(std::string_view name) {
  if (!current().is_name(name)) return false;
  take();
  return true;
}

void ExpressionParser::expect_symbol(std::string_view symbol) {
  if (!skip_symbol(symbol)) {
    fail("expected token " + quoted(symbol) + ", got " + quoted(describe(current())));
  }
}

Token ExpressionParser::expect(TokenKind kind, const char* what) {
  if (current().kind != kind) {
    fail("expected token " + quoted(what) + ", got " + quoted(describe(current())));
  }
  return take();
}

ExpressionPtr ExpressionParser::make(ExpressionKind kind, int line) {
  auto node = std::make_unique<Expression>();
  node->kind = kind;
  node->line = line;
  return node;
}

ExpressionPtr ExpressionParser::finish(ExpressionPtr node) const {
  int height = 0;
  const auto add = [&height](const ExpressionPtr& part) {
    if (part) height = std::max(height, part->height);
  };
  for (const ExpressionPtr& item : node->items) add(item);
  for (const ExpressionPtr& argument : node->arguments.positional) add(argument);
  for (const auto& [name, argument] : node->arguments.keywords) add(argument);
  add(node->arguments.star);
  add(node->arguments.double_star);
  node->height = height + 1;
  if (node->height > kMaxHeight) too_deep();
  return node;
}

}  // namespace engine::jinja
