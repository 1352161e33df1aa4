#include "tokenizer/chat/jinja/check_builtins.h"

#include "tokenizer/chat/jinja/print.h"

namespace engine::jinja {
namespace {

void check(const ExpressionPtr& expression, bool soft) {
  if (!expression) return;
  const Expression& node = *expression;
  if (node.kind == ExpressionKind::conditional) soft = true;
  const bool filter = node.kind == ExpressionKind::filter && !node.filter;
  const bool test = node.kind == ExpressionKind::test && !node.test;
  if ((filter || test) && !soft) {
    throw TemplateError(
        "TemplateAssertionError",
        std::string("No ") + (filter ? "filter" : "test") + " named " + quoted(node.name) + ".",
        node.line);
  }
  for (const ExpressionPtr& item : node.items) check(item, soft);
  for (const ExpressionPtr& argument : node.arguments.positional) check(argument, soft);
  for (const auto& [name, argument] : node.arguments.keywords) check(argument, soft);
  check(node.arguments.star, soft);
  check(node.arguments.double_star, soft);
}

void check(const Body& body, bool soft);

void check(const Statement& statement, bool soft) {
  if (statement.kind == StatementKind::condition) {
    for (const auto& [condition, guarded] : statement.branches) {
      check(condition, true);
      check(guarded, true);
    }
    check(statement.otherwise, true);
    return;
  }
  check(statement.expression, soft && statement.kind != StatementKind::set_block &&
                                  statement.kind != StatementKind::filter_block);
  for (const auto& [target, value] : statement.assignments) check(value, soft);
  // The rest has a scope of its own, where nothing is taken back.
  check(statement.filter, false);
  for (const Parameter& parameter : statement.signature.parameters) {
    check(parameter.fallback, false);
  }
  check(statement.body, false);
  check(statement.otherwise, false);
}

void check(const Body& body, bool soft) {
  for (const auto& statement : body) check(*statement, soft);
}

}  // namespace

void check_builtins(const Body& body) {
  check(body, false);
}

}  // namespace engine::jinja
