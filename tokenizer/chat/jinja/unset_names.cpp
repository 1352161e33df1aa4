#include "tokenizer/chat/jinja/unset_names.h"

#include <unordered_set>

#include "tokenizer/chat/jinja/print.h"

namespace engine::jinja {
namespace {

// The names that one block knows (Symbols in Jinja's idtracking.py).
class Names {
 public:
  Names(const Names* parent, const std::vector<std::string>& texts)
      : parent_(parent), texts_(texts) {}

  // Where a name comes from is decided by what is seen first.
  void load(int32_t symbol) {
    if (!known(symbol)) names_.insert(symbol);
  }
  void store(int32_t symbol) {
    if (!names_.insert(symbol).second) return;
    if (branches_ > 0 || (parent_ && parent_->known(symbol))) return;
    const std::string& text = texts_[static_cast<size_t>(symbol)];
    unset_.emplace_back(symbol, Value::undefined(quoted(text) + " is undefined"));
  }
  void parameter(int32_t symbol) { names_.insert(symbol); }

  void parameters(const Expression& target) {
    if (target.kind == ExpressionKind::name) parameter(target.symbol);
    for (const ExpressionPtr& item : target.items) parameters(*item);
  }
  void targets(const Expression& target) {
    if (target.kind == ExpressionKind::name) store(target.symbol);
    if (target.kind == ExpressionKind::member) load(target.symbol);
    for (const ExpressionPtr& item : target.items) targets(*item);
  }
  void loads(const ExpressionPtr& expression) {
    if (!expression) return;
    if (expression->kind == ExpressionKind::name) load(expression->symbol);
    for (const ExpressionPtr& item : expression->items) loads(item);
    const ArgumentList& arguments = expression->arguments;
    for (const ExpressionPtr& argument : arguments.positional) loads(argument);
    for (const auto& [name, argument] : arguments.keywords) loads(argument);
    loads(arguments.star);
    loads(arguments.double_star);
  }

  // What statements do to the names of the block they stand in; inner blocks have names of their
  // own.
  void visit(const Body& body) {
    for (const auto& statement : body) visit(*statement);
  }

  UnsetNames take() { return std::move(unset_); }

 private:
  bool known(int32_t symbol) const {
    for (const Names* names = this; names; names = names->parent_) {
      if (names->names_.contains(symbol)) return true;
    }
    return false;
  }

  void visit(const Statement& statement) {
    switch (statement.kind) {
      case StatementKind::condition:
        for (const auto& [condition, guarded] : statement.branches) {
          loads(condition);
          visit_branch(guarded);
        }
        visit_branch(statement.otherwise);
        return;
      case StatementKind::set:
        loads(statement.expression);
        targets(*statement.target);
        return;
      case StatementKind::set_block:
        targets(*statement.target);
        return;
      case StatementKind::macro:
        store(statement.symbol);
        return;
      case StatementKind::with:
        for (const auto& [target, value] : statement.assignments) loads(value);
        return;
      default:  // print, loop, call_block, filter_block; the others have no expression
        loads(statement.expression);
    }
  }
  void visit_branch(const Body& body) {
    ++branches_;
    visit(body);
    --branches_;
  }

  const Names* parent_;
  const std::vector<std::string>& texts_;
  std::unordered_set<int32_t> names_;
  int branches_ = 0;  // of conditions around what is visited
  UnsetNames unset_;
};

class Finder {
 public:
  explicit Finder(const std::vector<std::string>& texts) : texts_(texts) {}

  UnsetNames find_in_template(Body& body) {
    Names names(nullptr, texts_);
    return find(body, names);
  }

 private:
  // `names` has the parameters of the block.
  UnsetNames find(Body& body, Names& names) {
    names.visit(body);
    find_inner(body, names);
    return names.take();
  }

  void find_inner(Body& body, const Names& names) {
    for (const auto& statement : body) find_inner(*statement, names);
  }

  void find_inner(Statement& statement, const Names& outer) {
    if (statement.kind == StatementKind::condition) {  // no block of its own
      for (auto& [condition, guarded] : statement.branches) find_inner(guarded, outer);
      find_inner(statement.otherwise, outer);
      return;
    }
    Names names(&outer, texts_);
    switch (statement.kind) {
      case StatementKind::loop: {
        names.parameter(kLoop);
        names.parameters(*statement.target);
        Names otherwise(&outer, texts_);
        statement.unset_otherwise = find(statement.otherwise, otherwise);
        break;
      }
      case StatementKind::with:
        for (const auto& [target, value] : statement.assignments) names.parameters(*target);
        break;
      case StatementKind::macro:
      case StatementKind::call_block:
      case StatementKind::generation:
        for (const int32_t symbol : {kCaller, kVarargs, kKwargs}) names.parameter(symbol);
        for (const Parameter& parameter : statement.signature.parameters) {
          names.parameter(parameter.symbol);
        }
        for (const Parameter& parameter : statement.signature.parameters) {
          names.loads(parameter.fallback);
        }
        break;
      case StatementKind::set_block:
      case StatementKind::filter_block:
        break;
      default:
        return;
    }
    statement.unset = find(statement.body, names);
  }

  const std::vector<std::string>& texts_;
};

}  // namespace

void find_unset_names(Template& parsed) {
  parsed.unset = Finder(parsed.names).find_in_template(parsed.body);
}

}  // namespace engine::jinja
