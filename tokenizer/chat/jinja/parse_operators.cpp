// Operators in the order of their precedence, names, literals and targets of assignments.
#include <algorithm>

#include "tokenizer/chat/jinja/parser_base.h"
#include "tokenizer/chat/jinja/print.h"

namespace engine::jinja {

ExpressionPtr ExpressionParser::fold_left(ExpressionPtr left, ExpressionKind kind,
                                          BinaryOperator op, ExpressionPtr right, int line) const {
  auto node = make(kind, line);
  node->op = op;
  node->items.push_back(std::move(left));
  node->items.push_back(std::move(right));
  return finish(std::move(node));
}

ExpressionPtr ExpressionParser::parse_expression(bool with_condition) {
  const Level level(*this);
  if (!with_condition) return parse_or();
  int line = current().line;
  ExpressionPtr value = parse_or();
  while (skip_name("if")) {
    auto node = make(ExpressionKind::conditional, line);
    node->items.push_back(std::move(value));
    node->items.push_back(parse_or());
    node->items.push_back(skip_name("else") ? parse_expression() : nullptr);
    value = finish(std::move(node));
    line = current().line;
  }
  return value;
}

ExpressionPtr ExpressionParser::parse_or() {
  int line = current().line;
  ExpressionPtr left = parse_and();
  while (skip_name("or")) {
    left = fold_left(std::move(left), ExpressionKind::logical_or, {}, parse_and(), line);
    line = current().line;
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_and() {
  int line = current().line;
  ExpressionPtr left = parse_not();
  while (skip_name("and")) {
    left = fold_left(std::move(left), ExpressionKind::logical_and, {}, parse_not(), line);
    line = current().line;
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_not() {
  if (!current().is_name("not")) return parse_comparison();
  const Level level(*this);
  auto node = make(ExpressionKind::logical_not, take().line);
  node->items.push_back(parse_not());
  return finish(std::move(node));
}

ExpressionPtr ExpressionParser::parse_comparison() {
  static constexpr std::pair<std::string_view, Comparison> kSymbols[] = {
      {"==", Comparison::equal},  {"!=", Comparison::not_equal},
      {"<", Comparison::less},    {"<=", Comparison::less_equal},
      {">", Comparison::greater}, {">=", Comparison::greater_equal}};
  auto node = make(ExpressionKind::comparison, current().line);
  node->items.push_back(parse_sum());
  while (true) {
    const auto* symbol =
        std::find_if(std::begin(kSymbols), std::end(kSymbols),
                     [this](const auto& entry) { return current().is_symbol(entry.first); });
    if (symbol != std::end(kSymbols)) {
      take();
      node->comparisons.push_back(symbol->second);
    } else if (skip_name("in")) {
      node->comparisons.push_back(Comparison::in);
    } else if (current().is_name("not") && look().is_name("in")) {
      take();
      take();
      node->comparisons.push_back(Comparison::not_in);
    } else {
      break;
    }
    node->items.push_back(parse_sum());
  }
  if (node->comparisons.empty()) return std::move(node->items[0]);
  return finish(std::move(node));
}

ExpressionPtr ExpressionParser::parse_sum() {
  int line = current().line;
  ExpressionPtr left = parse_concatenation();
  while (current().is_symbol("+") || current().is_symbol("-")) {
    const auto op = take().text == "+" ? BinaryOperator::add : BinaryOperator::subtract;
    left = fold_left(std::move(left), ExpressionKind::binary, op, parse_concatenation(), line);
    line = current().line;
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_concatenation() {
  auto node = make(ExpressionKind::concatenate, current().line);
  node->items.push_back(parse_product());
  while (skip_symbol("~")) node->items.push_back(parse_product());
  if (node->items.size() == 1) return std::move(node->items[0]);
  return finish(std::move(node));
}

ExpressionPtr ExpressionParser::parse_product() {
  int line = current().line;
  ExpressionPtr left = parse_power();
  static constexpr std::pair<std::string_view, BinaryOperator> kSymbols[] = {
      {"*", BinaryOperator::multiply},
      {"/", BinaryOperator::divide},
      {"//", BinaryOperator::floor_divide},
      {"%", BinaryOperator::modulo}};
  while (true) {
    const auto* symbol =
        std::find_if(std::begin(kSymbols), std::end(kSymbols),
                     [this](const auto& entry) { return current().is_symbol(entry.first); });
    if (symbol == std::end(kSymbols)) return left;
    take();
    left = fold_left(std::move(left), ExpressionKind::binary, symbol->second, parse_power(), line);
    line = current().line;
  }
}

ExpressionPtr ExpressionParser::parse_power() {
  int line = current().line;
  ExpressionPtr left = parse_unary();
  while (skip_symbol("**")) {
    left = fold_left(std::move(left), ExpressionKind::binary, BinaryOperator::power, parse_unary(),
                     line);
    line = current().line;
  }
  return left;
}

ExpressionPtr ExpressionParser::parse_unary(bool with_filters) {
  const Level level(*this);
  ExpressionPtr node;
  if (current().is_symbol("-") || current().is_symbol("+")) {
    const Token sign = take();
    node = make(sign.text == "-" ? ExpressionKind::negative : ExpressionKind::positive, sign.line);
    node->items.push_back(parse_unary(false));
    node = finish(std::move(node));
  } else {
    node = parse_primary();
  }
  node = parse_postfix(std::move(node));
  return with_filters ? parse_filters_and_tests(std::move(node)) : std::move(node);
}

ExpressionPtr ExpressionParser::parse_name(bool with_members) {
  const Token token = take();
  const std::string& name = token.text;
  auto node = make(ExpressionKind::constant, token.line);
  if (name == "true" || name == "True") {
    node->constant = Value::boolean(true);
  } else if (name == "false" || name == "False") {
    node->constant = Value::boolean(false);
  } else if (name != "none" && name != "None") {
    node->kind = ExpressionKind::name;
    node->symbol = symbol(name);
    node->name = name;
    if (with_members && current().is_symbol(".")) {
      take();
      node->kind = ExpressionKind::member;
      node->name = expect(TokenKind::name, "name").text;
    } else {
      for (Signature* macro : macros_) {
        macro->uses_caller |= name == "caller";
        macro->uses_varargs |= name == "varargs";
        macro->uses_kwargs |= name == "kwargs";
      }
    }
  }
  return node;
}

ExpressionPtr ExpressionParser::parse_primary(bool with_members) {
  const Token& token = current();
  auto node = make(ExpressionKind::constant, token.line);
  switch (token.kind) {
    case TokenKind::name:
      return parse_name(with_members);
    case TokenKind::string: {
      std::string text = take().text;
      while (current().kind == TokenKind::string) text += take().text;
      node->constant = Value::string(std::move(text));
      return node;
    }
    case TokenKind::number:
      node->constant = take().number;
      return node;
    default:
      break;
  }
  if (skip_symbol("(")) {
    node = parse_tuple({.parentheses = true});
    expect_symbol(")");
    return node;
  }
  if (token.is_symbol("[")) return parse_list();
  if (token.is_symbol("{")) return parse_dict();
  fail("unexpected " + quoted(describe(token)));
}

ExpressionPtr ExpressionParser::parse_list() {
  auto node = make(ExpressionKind::list, take().line);
  while (!current().is_symbol("]")) {
    if (!node->items.empty()) expect_symbol(",");
    if (current().is_symbol("]")) break;
    node->items.push_back(parse_expression());
  }
  expect_symbol("]");
  return finish(std::move(node));
}

ExpressionPtr ExpressionParser::parse_dict() {
  auto node = make(ExpressionKind::dict, take().line);
  while (!current().is_symbol("}")) {
    if (!node->items.empty()) expect_symbol(",");
    if (current().is_symbol("}")) break;
    node->items.push_back(parse_expression());
    expect_symbol(":");
    node->items.push_back(parse_expression());
  }
  expect_symbol("}");
  return finish(std::move(node));
}

bool ExpressionParser::at_tuple_end() const {
  const Token& token = current();
  return token.kind == TokenKind::print_end || token.kind == TokenKind::block_end ||
         token.is_symbol(")");
}

ExpressionPtr ExpressionParser::parse_tuple(const TupleOptions& options) {
  const Level level(*this);
  auto node = make(ExpressionKind::tuple, current().line);
  bool comma = false;
  while (true) {
    if (!node->items.empty()) expect_symbol(",");
    if (at_tuple_end()) break;
    node->items.push_back(options.targets_only ? parse_primary(options.with_members)
                                               : parse_expression(options.with_condition));
    if (!current().is_symbol(",")) break;
    comma = true;
  }
  if (!comma) {
    if (!node->items.empty()) return std::move(node->items[0]);
    if (!options.parentheses) {
      fail("Expected an expression, got " + quoted(describe(current())));
    }
  }
  return finish(std::move(node));
}

void ExpressionParser::check_target(const Expression& target) const {
  switch (target.kind) {
    case ExpressionKind::name:
    case ExpressionKind::member:
      return;
    case ExpressionKind::tuple:
      for (const ExpressionPtr& item : target.items) check_target(*item);
      return;
    default:
      fail("can't assign to an expression", target.line);
  }
}

ExpressionPtr ExpressionParser::parse_target(const TupleOptions& options) {
  TupleOptions targets = options;
  targets.targets_only = true;
  ExpressionPtr target = parse_tuple(targets);
  check_target(*target);
  return target;
}

}  // namespace engine::jinja
