#include <algorithm>

#include "tokenizer/chat/jinja/builtins.h"
#include "tokenizer/chat/jinja/parser_base.h"
#include "tokenizer/chat/jinja/print.h"

namespace engine::jinja {
namespace {

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

}  // namespace

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
