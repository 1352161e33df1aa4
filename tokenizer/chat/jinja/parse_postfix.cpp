// What stands behind a value: members, subscripts, calls, filters and tests.
#include "tokenizer/chat/jinja/builtins.h"
#include "tokenizer/chat/jinja/parser_base.h"

namespace engine::jinja {

ExpressionPtr ExpressionParser::parse_postfix(ExpressionPtr node) {
  while (true) {
    if (current().is_symbol(".") || current().is_symbol("[")) {
      node = parse_subscript(std::move(node));
    } else if (current().is_symbol("(")) {
      node = parse_call(std::move(node));
    } else {
      return node;
    }
  }
}

ExpressionPtr ExpressionParser::parse_filters_and_tests(ExpressionPtr node) {
  while (true) {
    if (current().is_symbol("|")) {
      node = parse_filters(std::move(node), false);
    } else if (current().is_name("is")) {
      node = parse_test(std::move(node));
    } else if (current().is_symbol("(")) {
      node = parse_call(std::move(node));
    } else {
      return node;
    }
  }
}

ExpressionPtr ExpressionParser::parse_subscript(ExpressionPtr object) {
  const Token token = take();
  if (token.text == ".") {
    const Token member = take();
    auto node = make(ExpressionKind::attribute, token.line);
    if (member.kind == TokenKind::name) {
      node->name = member.text;
    } else if (member.kind == TokenKind::number && member.number.is(Type::integer)) {
      node->kind = ExpressionKind::item;
    } else {
      fail("expected name or number", member.line);
    }
    node->items.push_back(std::move(object));
    if (node->kind == ExpressionKind::item) {
      auto index = make(ExpressionKind::constant, member.line);
      index->constant = member.number;
      node->items.push_back(std::move(index));
    }
    return finish(std::move(node));
  }
  return parse_subscribed(std::move(object), token.line);
}

// Behind the bracket: an index, several of them, or a slice.
ExpressionPtr ExpressionParser::parse_subscribed(ExpressionPtr object, int line) {
  const Level level(*this);
  auto node = make(ExpressionKind::item, line);
  node->items.push_back(std::move(object));
  auto keys = make(ExpressionKind::tuple, line);
  bool first = true;
  while (!current().is_symbol("]")) {
    if (!first) expect_symbol(",");
    ExpressionPtr start;
    if (!current().is_symbol(":")) start = parse_expression();
    if (current().is_symbol(":")) {
      if (!first) fail("a slice among several subscripts is not supported");
      take();
      node->kind = ExpressionKind::slice;
      const auto bound = [this]() -> ExpressionPtr {
        const bool none = current().is_symbol(":") || current().is_symbol("]");
        return none ? nullptr : parse_expression();
      };
      node->items.push_back(std::move(start));
      node->items.push_back(bound());
      node->items.push_back(skip_symbol(":") ? bound() : nullptr);
      expect_symbol("]");
      return finish(std::move(node));
    }
    keys->items.push_back(std::move(start));
    first = false;
  }
  expect_symbol("]");
  node->items.push_back(keys->items.size() == 1 ? std::move(keys->items[0])
                                                : finish(std::move(keys)));
  return finish(std::move(node));
}

ArgumentList ExpressionParser::parse_arguments() {
  const int line = current().line;
  expect_symbol("(");
  ArgumentList list;
  const auto ensure = [&](bool right) {
    if (!right) fail("invalid syntax for function call expression", line);
  };
  bool comma = false;
  while (!current().is_symbol(")")) {
    if (comma) {
      expect_symbol(",");
      if (current().is_symbol(")")) break;
    }
    if (skip_symbol("*")) {
      ensure(!list.star && !list.double_star);
      list.star = parse_expression();
    } else if (skip_symbol("**")) {
      ensure(!list.double_star);
      list.double_star = parse_expression();
    } else if (current().kind == TokenKind::name && look().is_symbol("=")) {
      ensure(!list.double_star);
      std::string name = take().text;
      take();
      list.keywords.emplace_back(std::move(name), parse_expression());
    } else {
      ensure(!list.star && !list.double_star && list.keywords.empty());
      list.positional.push_back(parse_expression());
    }
    comma = true;
  }
  expect_symbol(")");
  return list;
}

ExpressionPtr ExpressionParser::parse_call(ExpressionPtr callee) {
  auto node = make(ExpressionKind::call, current().line);
  node->items.push_back(std::move(callee));
  node->arguments = parse_arguments();
  return finish(std::move(node));
}

std::string ExpressionParser::parse_dotted_name() {
  std::string name = expect(TokenKind::name, "name").text;
  while (skip_symbol(".")) name += "." + expect(TokenKind::name, "name").text;
  return name;
}

ExpressionPtr ExpressionParser::parse_filters(ExpressionPtr input, bool at_name) {
  while (at_name || skip_symbol("|")) {
    at_name = false;
    auto node = make(ExpressionKind::filter, current().line);
    node->name = parse_dotted_name();
    node->filter = find_filter(node->name);
    node->items.push_back(std::move(input));
    if (current().is_symbol("(")) node->arguments = parse_arguments();
    input = finish(std::move(node));
  }
  return input;
}

ExpressionPtr ExpressionParser::parse_test(ExpressionPtr value) {
  auto node = make(ExpressionKind::test, take().line);
  const bool negated = skip_name("not");
  node->name = parse_dotted_name();
  node->test = find_test(node->name);
  node->items.push_back(std::move(value));
  const Token& token = current();
  const bool argument = token.kind == TokenKind::name || token.kind == TokenKind::string ||
                        token.kind == TokenKind::number || token.is_symbol("[") ||
                        token.is_symbol("{");
  if (token.is_symbol("(")) {
    node->arguments = parse_arguments();
  } else if (argument && !token.is_name("else") && !token.is_name("or") && !token.is_name("and")) {
    if (token.is_name("is")) fail("You cannot chain multiple tests with is");
    node->arguments.positional.push_back(parse_postfix(parse_primary()));
  }
  const int line = node->line;
  ExpressionPtr result = finish(std::move(node));
  if (!negated) return result;
  auto inverse = make(ExpressionKind::logical_not, line);
  inverse->items.push_back(std::move(result));
  return finish(std::move(inverse));
}

}  // namespace engine::jinja
