#include "tokenizer/chat/jinja/interpreter.h"

#include "tokenizer/chat/jinja/loop.h"
#include "tokenizer/chat/jinja/print.h"
#include "tokenizer/chat/jinja/text.h"

namespace engine::jinja {
namespace {

// Elements for which the condition of a loop holds.
struct FilteredIterator final : IteratorObject {
  std::optional<Value> next(Interpreter& interpreter) override {
    while (std::optional<Value> element = source->next(interpreter)) {
      if (interpreter.accepts(*loop, scope, *element)) return element;
    }
    return std::nullopt;
  }
  std::shared_ptr<IteratorObject> source;
  const Statement* loop = nullptr;
  std::shared_ptr<Scope> scope;
};

// Breaks circles: the variables of a loop's passes hold the loop.
struct LoopEnd {
  LoopObject& loop;
  ~LoopEnd() {
    loop.scope.reset();
    loop.last_changed.reset();
  }
};

}  // namespace

// While it lives, what is written goes into a text of its own.
class Interpreter::Capture {
 public:
  explicit Capture(Interpreter& interpreter) : interpreter_(interpreter), outer_(interpreter.out_) {
    interpreter_.out_ = &text;
  }
  ~Capture() { interpreter_.out_ = outer_; }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  std::string text;

 private:
  Interpreter& interpreter_;
  std::string* outer_;
};

Interpreter::Interpreter(const Template& parsed, const DictObject& variables,
                         const RenderOptions& options)
    : template_(parsed), variables_(variables), options_(options), budget_(options.limits) {}

Interpreter::~Interpreter() {
  // One by one, while all others are still held: freeing a long chain would recurse.
  for (const auto& space : spaces_) space->attributes.clear();
  for (const ScopePtr& scope : captured_scopes_) scope->clear();
}

Rendering Interpreter::run() {
  try {
    const ScopePtr root = inner(nullptr, template_.unset);
    captured_scopes_.push_back(root);
    execute(template_.body, root);
  } catch (TemplateError& error) {
    error.set_line(line_);
    throw;
  }
  Rendering result;
  for (const Generation& block : generations_) {
    const std::string_view printed = std::string_view(text_).substr(block.begin);
    const bool in_place = printed.starts_with(block.text);
    const size_t size =
        in_place ? block.text.size() : character_offset(printed, count_characters(block.text));
    result.generations.push_back({{block.begin, block.begin + size}, block.nested, in_place});
  }
  result.text = std::move(text_);
  return result;
}

void Interpreter::write(std::string_view text) {
  budget_.take(text.size());
  budget_.output(out_->size() + text.size());
  out_->append(text);
}

Interpreter::ScopePtr Interpreter::inner(const ScopePtr& scope, const UnsetNames& unset) {
  return std::make_shared<Scope>(scope, unset, budget_);
}

Interpreter::Flow Interpreter::execute(const Body& body, const ScopePtr& scope) {
  for (const auto& statement : body) {
    const Flow flow = execute(*statement, scope);
    if (flow != Flow::next) return flow;
  }
  return Flow::next;
}

Interpreter::Flow Interpreter::execute(const Statement& statement, const ScopePtr& scope) {
  const DepthGuard guard(budget_);
  line_ = statement.line;
  switch (statement.kind) {
    case StatementKind::text:
      write(statement.text);
      break;
    case StatementKind::print: {
      const Value value = evaluate(*statement.expression, scope);
      if (value.is_string()) {
        write(value.text());
      } else {
        write(to_text(value, budget_));
      }
      break;
    }
    case StatementKind::condition:
      return run_condition(statement, scope);
    case StatementKind::loop: {
      const Value iterable = evaluate(*statement.expression, scope);
      if (statement.recursive) {
        write(run_recursive_loop(statement, scope, iterable, 0));
      } else {
        run_loop(statement, scope, iterable, 0);
      }
      break;
    }
    case StatementKind::set:
      check_members(*statement.target, scope);
      assign(*statement.target, scope, evaluate(*statement.expression, scope));
      break;
    case StatementKind::set_block:
      run_set_block(statement, scope);
      break;
    case StatementKind::macro:
      scope->set(statement.symbol, make_macro(statement, scope, false));
      break;
    case StatementKind::call_block:
      run_call_block(statement, scope);
      break;
    case StatementKind::filter_block:
      run_filter_block(statement, scope);
      break;
    case StatementKind::with:
      run_with(statement, scope);
      break;
    case StatementKind::generation:
      run_generation(statement, scope);
      break;
    case StatementKind::break_loop:
      return Flow::break_loop;
    case StatementKind::continue_loop:
      return Flow::continue_loop;
  }
  return Flow::next;
}

Interpreter::Flow Interpreter::run_condition(const Statement& statement, const ScopePtr& scope) {
  for (const auto& [condition, body] : statement.branches) {
    if (truth(evaluate(*condition, scope))) return execute(body, scope);
  }
  return execute(statement.otherwise, scope);
}

bool Interpreter::accepts(const Statement& loop, const ScopePtr& scope, const Value& element) {
  budget_.step();
  const ScopePtr filter_scope = inner(scope, {});
  assign(*loop.target, filter_scope, element);
  return truth(evaluate(*loop.filter, filter_scope));
}

void Interpreter::run_loop(const Statement& statement, const ScopePtr& scope, const Value& iterable,
                           int64_t depth) {
  auto loop = std::make_shared<LoopObject>();
  loop->interpreter = this;
  loop->depth0 = depth;
  loop->source = iterate(iterable);
  loop->iterable = iterable;
  hold(*loop, iterable);
  if (statement.filter) {
    auto filtered = std::make_shared<FilteredIterator>();
    filtered->source = std::move(loop->source);
    filtered->loop = &statement;
    filtered->scope = scope;
    hold(*filtered, iterable);
    loop->iterable = Value::object(Type::iterator, filtered);
    loop->source = std::move(filtered);
  }
  if (statement.recursive) {
    loop->statement = &statement;
    loop->scope = scope;
  }
  const LoopEnd end{*loop};
  const Value loop_value = Value::object(Type::loop, loop);
  bool completed = false;  // a pass, to its end: that is what Jinja asks before `else`
  while (loop->advance()) {
    budget_.step();
    const ScopePtr pass = inner(scope, statement.unset);
    pass->set(kLoop, loop_value);
    assign(*statement.target, pass, *loop->current);
    const Flow flow = execute(statement.body, pass);
    if (flow == Flow::break_loop) break;
    completed |= flow == Flow::next;
  }
  if (!completed) execute(statement.otherwise, inner(scope, statement.unset_otherwise));
}

// A function in Jinja, that returns its text.
std::string Interpreter::run_recursive_loop(const Statement& statement, const ScopePtr& scope,
                                            const Value& iterable, int64_t depth) {
  Capture capture(*this);
  run_loop(statement, scope, iterable, depth);
  return std::move(capture.text);
}

std::string Interpreter::recurse(const LoopObject& loop, const Value& iterable) {
  const DepthGuard guard(budget_);
  return run_recursive_loop(*loop.statement, loop.scope, iterable, loop.depth0 + 1);
}

std::string Interpreter::captured(const Body& body, const ScopePtr& scope) {
  Capture capture(*this);
  execute(body, scope);
  return std::move(capture.text);
}

void Interpreter::run_set_block(const Statement& statement, const ScopePtr& scope) {
  const ScopePtr inside = inner(scope, statement.unset);
  Value value = Value::string(captured(statement.body, inside));
  if (statement.expression) value = evaluate_filter(*statement.expression, inside, &value);
  assign(*statement.target, scope, value);
}

void Interpreter::run_filter_block(const Statement& statement, const ScopePtr& scope) {
  const ScopePtr inside = inner(scope, statement.unset);
  const Value value = Value::string(captured(statement.body, inside));
  write(to_text(evaluate_filter(*statement.expression, inside, &value), budget_));
}

void Interpreter::run_with(const Statement& statement, const ScopePtr& scope) {
  const ScopePtr inside = inner(scope, statement.unset);
  for (const auto& [target, value] : statement.assignments) {
    assign(*target, inside, evaluate(*value, scope));
  }
  execute(statement.body, inside);
}

void Interpreter::run_generation(const Statement& statement, const ScopePtr& scope) {
  ++generation_depth_;
  CallArguments none;
  std::string text = call_macro(statement, scope, none);
  --generation_depth_;
  write(text);
  budget_.take(text.size());
  const size_t begin = text_.size() - (out_ == &text_ ? text.size() : 0);
  generations_.push_back({begin, std::move(text), generation_depth_ > 0});
}

SpaceObject& Interpreter::namespace_of(const Expression& member, const ScopePtr& scope) {
  const Value* space = scope->find(member.symbol);
  if (!space) space = variables_.find(template_.names[static_cast<size_t>(member.symbol)]);
  if (!space || !space->is(Type::space)) {
    throw TemplateError("TemplateRuntimeError", "cannot assign attribute on non-namespace object");
  }
  return space->get<SpaceObject>();
}

// Before the value is computed, as Jinja does.
void Interpreter::check_members(const Expression& target, const ScopePtr& scope) {
  if (target.kind == ExpressionKind::member) namespace_of(target, scope);
  for (const ExpressionPtr& item : target.items) check_members(*item, scope);
}

void Interpreter::assign(const Expression& target, const ScopePtr& scope, const Value& value) {
  switch (target.kind) {
    case ExpressionKind::name:
      scope->set(target.symbol, value);
      return;
    case ExpressionKind::member:
      if (target.name.starts_with('_')) {
        throw TemplateError("SecurityError",
                            "Chat templates cannot store underscore-prefixed attributes on a "
                            "namespace, but got " +
                                quoted(target.name) + ". Please rename the attribute.");
      }
      budget_.take(sizeof(Value) * 2);
      namespace_of(target, scope).attributes.set(target.name, value);
      return;
    default: {
      if (!iterable(value))
        type_error("cannot unpack non-iterable " + type_name(value) + " object");
      const auto iterator = iterate(value);
      size_t count = 0;
      for (const ExpressionPtr& item : target.items) {
        const std::optional<Value> element = iterator->next(*this);
        if (!element) {
          throw TemplateError("ValueError", "not enough values to unpack (expected " +
                                                std::to_string(target.items.size()) + ", got " +
                                                std::to_string(count) + ")");
        }
        assign(*item, scope, *element);
        ++count;
      }
      if (iterator->next(*this)) {
        throw TemplateError("ValueError",
                            "too many values to unpack (expected " + std::to_string(count) + ")");
      }
    }
  }
}

Rendering render(const Template& parsed, const DictObject& variables,
                 const RenderOptions& options) {
  return Interpreter(parsed, variables, options).run();
}

std::vector<Value> collect(Interpreter& interpreter, const Value& value) {
  std::vector<Value> items;
  const auto iterator = iterate(value);
  while (std::optional<Value> item = iterator->next(interpreter)) {
    interpreter.budget().take(sizeof(Value));
    items.push_back(*std::move(item));
  }
  return items;
}

}  // namespace engine::jinja
