#include "tokenizer/chat/jinja/compared_texts.h"

#include <algorithm>
#include <unordered_set>

namespace engine::jinja {
namespace {

class Collector {
 public:
  Collector(const Template& parsed, std::string_view key) : parsed_(parsed), key_(key) {}

  void visit(const Body& body) {
    for (const auto& statement : body) visit(*statement);
  }

  std::vector<std::string> texts;

 private:
  void visit(const Statement& statement) {
    visit(statement.target);
    visit(statement.expression);
    visit(statement.filter);
    for (const auto& [condition, guarded] : statement.branches) {
      visit(condition);
      visit(guarded);
    }
    for (const auto& [target, value] : statement.assignments) visit(value);
    for (const Parameter& parameter : statement.signature.parameters) visit(parameter.fallback);
    visit(statement.body);
    visit(statement.otherwise);
  }

  void visit(const ExpressionPtr& expression) {
    if (!expression) return;
    const Expression& node = *expression;
    if (node.kind == ExpressionKind::comparison &&
        std::any_of(node.items.begin(), node.items.end(),
                    [this](const ExpressionPtr& item) { return is_key(*item); })) {
      for (const ExpressionPtr& item : node.items) add(*item);
    }
    for (const ExpressionPtr& item : node.items) visit(item);
    for (const ExpressionPtr& argument : node.arguments.positional) visit(argument);
    for (const auto& [name, argument] : node.arguments.keywords) visit(argument);
    visit(node.arguments.star);
    visit(node.arguments.double_star);
  }

  static bool is_text(const Expression& node) {
    return node.kind == ExpressionKind::constant && node.constant.is_string();
  }

  bool is_key(const Expression& node) const {
    switch (node.kind) {
      case ExpressionKind::name:
        return node.symbol >= 0 && parsed_.names[static_cast<size_t>(node.symbol)] == key_;
      case ExpressionKind::attribute:
        return node.name == key_;
      case ExpressionKind::item:
        return is_text(*node.items[1]) && node.items[1]->constant.text() == key_;
      default:
        return false;
    }
  }

  // A string, or those of a list.
  void add(const Expression& node) {
    if (node.kind == ExpressionKind::list || node.kind == ExpressionKind::tuple) {
      for (const ExpressionPtr& item : node.items) add(*item);
    }
    if (!is_text(node)) return;
    const std::string& text = node.constant.text();
    if (seen_.insert(text).second) texts.push_back(text);
  }

  const Template& parsed_;
  std::string_view key_;
  std::unordered_set<std::string_view> seen_;  // into the template
};

}  // namespace

std::vector<std::string> compared_texts(const Template& parsed, std::string_view key) {
  Collector collector(parsed, key);
  collector.visit(parsed.body);
  return std::move(collector.texts);
}

}  // namespace engine::jinja
