#include "tokenizer/chat/jinja/check_template.h"

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

void check_target(const Expression& target) {
  if (target.kind == ExpressionKind::name && target.symbol == kLoop) {
    throw TemplateError("TemplateAssertionError",
                        "Can't assign to special loop variable in for-loop target", target.line);
  }
  for (const ExpressionPtr& item : target.items) check_target(*item);
}

struct Place {
  bool soft = false;     // guarded by a condition
  bool in_loop = false;  // or the loop itself
};

void check(const Body& body, Place place);

void check(const Statement& statement, Place place) {
  if (statement.kind == StatementKind::condition) {
    place.soft = true;
    for (const auto& [condition, guarded] : statement.branches) {
      check(condition, true);
      check(guarded, place);
    }
    check(statement.otherwise, place);
    return;
  }
  place.in_loop |= statement.kind == StatementKind::loop;
  if (place.in_loop && statement.target) check_target(*statement.target);
  check(statement.expression, place.soft && statement.kind != StatementKind::set_block &&
                                  statement.kind != StatementKind::filter_block);
  for (const auto& [target, value] : statement.assignments) check(value, place.soft);
  // The rest has a scope of its own, where nothing is taken back.
  check(statement.filter, false);
  for (const Parameter& parameter : statement.signature.parameters) {
    check(parameter.fallback, false);
  }
  place.soft = false;
  check(statement.body, place);
  check(statement.otherwise, place);
}

void check(const Body& body, Place place) {
  for (const auto& statement : body) check(*statement, place);
}

}  // namespace

void check_template(const Body& body) {
  check(body, Place{});
}

}  // namespace engine::jinja
