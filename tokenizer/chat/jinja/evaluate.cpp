// Expressions, and calls of macros.
#include "tokenizer/chat/jinja/builtins.h"
#include "tokenizer/chat/jinja/interpreter.h"
#include "tokenizer/chat/jinja/loop.h"
#include "tokenizer/chat/jinja/print.h"

namespace engine::jinja {
namespace {

struct Macro final : Callable {
  Value call(Interpreter& interpreter, CallArguments& arguments) const override {
    return Value::string(interpreter.call_macro(*statement, scope.lock(), arguments));
  }
  const Statement* statement = nullptr;
  std::weak_ptr<Scope> scope;  // held by the interpreter
};

}  // namespace

Value Interpreter::make_macro(const Statement& statement, const ScopePtr& scope, bool caller) {
  auto macro = std::make_shared<Macro>();
  macro->name = caller ? "<Macro anonymous>" : "<Macro " + quoted(statement.text) + ">";
  macro->statement = &statement;
  macro->scope = scope;
  if (captured_scopes_.empty() || captured_scopes_.back() != scope) {
    budget_.take(sizeof(Scope));
    captured_scopes_.push_back(scope);
  }
  return Value::object(Type::callable, std::move(macro));
}

std::string Interpreter::call_macro(const Statement& statement, const ScopePtr& definition,
                                    CallArguments& arguments) {
  const Signature& signature = statement.signature;
  const bool block = statement.kind != StatementKind::macro;
  const std::string name = block ? "None" : quoted(statement.text);
  const ScopePtr scope = inner(definition, statement.unset);
  const auto take_keyword = [&](std::string_view key) -> std::optional<Value> {
    budget_.step(arguments.keywords.size());
    for (auto at = arguments.keywords.begin(); at != arguments.keywords.end(); ++at) {
      if (at->first != key) continue;
      Value value = std::move(at->second);
      arguments.keywords.erase(at);
      return value;
    }
    return std::nullopt;
  };
  const size_t count = signature.parameters.size();
  budget_.step(count * 4);  // given or not
  std::vector<std::optional<Value>> values(count);
  for (size_t i = 0; i < count; ++i) {
    if (i < arguments.positional.size()) {
      values[i] = arguments.positional[i];
    } else {
      values[i] = take_keyword(signature.parameters[i].name);
    }
  }
  if (signature.uses_caller && !signature.has_caller_parameter) {
    std::optional<Value> caller = take_keyword("caller");
    scope->set(kCaller, caller ? *caller : Value::undefined("No caller defined"));
  }
  if (signature.uses_kwargs) {
    auto kwargs = std::make_shared<DictObject>();
    for (auto& [key, value] : arguments.keywords) kwargs->set(key, value);
    scope->set(kKwargs, Value::object(Type::dict, std::move(kwargs)));
  } else if (!arguments.keywords.empty()) {
    const std::string& key = arguments.keywords[0].first;
    type_error(key == "caller" ? "macro " + name +
                                     " was invoked with two values for the special caller "
                                     "argument. This is most likely a bug."
                               : "macro " + name + " takes no keyword argument " + quoted(key));
  }
  if (signature.uses_varargs) {
    std::vector<Value> rest;
    for (size_t i = count; i < arguments.positional.size(); ++i) {
      rest.push_back(arguments.positional[i]);
    }
    scope->set(kVarargs, Value::tuple(std::move(rest)));
  } else if (arguments.positional.size() > count) {
    type_error("macro " + name + " takes not more than " + std::to_string(count) + " argument(s)");
  }
  // A default sees all parameters that were given, and those before it.
  for (size_t i = 0; i < count; ++i) {
    const Parameter& parameter = signature.parameters[i];
    scope->set(parameter.symbol,
               values[i] ? *values[i] : Value::undefined(quoted(parameter.name) + " is undefined"));
  }
  for (size_t i = 0; i < count; ++i) {
    if (values[i]) continue;
    const Parameter& parameter = signature.parameters[i];
    scope->set(parameter.symbol,
               parameter.fallback
                   ? evaluate(*parameter.fallback, scope)
                   : Value::undefined("parameter " + quoted(parameter.name) + " was not provided"));
  }
  const int line = line_;
  std::string text = captured(statement.body, scope);
  line_ = line;
  return text;
}

void Interpreter::run_call_block(const Statement& statement, const ScopePtr& scope) {
  const Expression& call_expression = *statement.expression;
  const Value callee = evaluate(*call_expression.items[0], scope);
  CallArguments arguments = evaluate_arguments(call_expression.arguments, scope);
  arguments.keywords.emplace_back("caller", make_macro(statement, scope, true));
  write(to_text(call(callee, arguments), budget_));
}

Value Interpreter::call(const Value& callee, CallArguments& arguments) {
  if (callee.is_undefined()) fail_undefined(callee);
  if (callee.is(Type::callable)) return callee.get<Callable>().call(*this, arguments);
  if (callee.is(Type::loop)) {
    const auto& loop = callee.get<LoopObject>();
    if (!loop.statement) {
      type_error("The loop must have the 'recursive' marker to be called recursively.");
    }
    if (arguments.positional.size() != 1 || !arguments.keywords.empty()) {
      type_error("loop() takes exactly one argument");
    }
    return Value::string(recurse(loop, arguments.positional[0]));
  }
  type_error("'" + type_name(callee) + "' object is not callable");
}

Value Interpreter::apply_filter(const std::string& name, const Value& input,
                                const CallArguments& arguments) {
  budget_.step();
  const Filter* filter = find_filter(name);
  if (!filter) throw TemplateError("TemplateRuntimeError", "No filter named " + quoted(name) + ".");
  pay_to_read(input, budget_);
  pay_to_read(arguments, budget_);
  return filter->apply(*this, name, input, arguments);
}

bool Interpreter::apply_test(const std::string& name, const Value& input,
                             const CallArguments& arguments) {
  budget_.step();
  const Test* test = find_test(name);
  if (!test) throw TemplateError("TemplateRuntimeError", "No test named " + quoted(name) + ".");
  pay_to_read(input, budget_);
  return test->apply(*this, name, input, arguments);
}

Value Interpreter::evaluate(const Expression& expression, const ScopePtr& scope) {
  switch (expression.kind) {
    case ExpressionKind::constant:
      budget_.step();
      return expression.constant;
    case ExpressionKind::name:
      budget_.step();
      return evaluate_name(expression, scope);
    default: {
      const DepthGuard guard(budget_);
      return evaluate_compound(expression, scope);
    }
  }
}

Value Interpreter::evaluate_compound(const Expression& expression, const ScopePtr& scope) {
  const auto item = [&](size_t i) { return evaluate(*expression.items[i], scope); };
  switch (expression.kind) {
    case ExpressionKind::list:
      return Value::list(evaluate_items(expression, scope));
    case ExpressionKind::tuple:
      return Value::tuple(evaluate_items(expression, scope));
    case ExpressionKind::dict:
      return evaluate_dict(expression, scope);
    case ExpressionKind::attribute:
      return get_attribute(*this, item(0), expression.name);
    case ExpressionKind::item: {
      const Value object = item(0);
      return get_item(*this, object, item(1));
    }
    case ExpressionKind::slice: {
      const auto bound = [&](size_t i) { return expression.items[i] ? item(i) : Value(); };
      const Value object = item(0);
      Slice slice;
      slice.start = bound(1);
      slice.stop = bound(2);
      slice.step = bound(3);
      return get_slice(*this, object, slice);
    }
    case ExpressionKind::call:
      return evaluate_call(expression, scope);
    case ExpressionKind::filter:
      return evaluate_filter(expression, scope, nullptr);
    case ExpressionKind::test: {
      const Value value = item(0);
      const CallArguments arguments = evaluate_arguments(expression.arguments, scope);
      if (!expression.test) {
        throw TemplateError("TemplateRuntimeError",
                            "No test named " + quoted(expression.name) + ".");
      }
      pay_to_read(value, budget_);
      return Value::boolean(expression.test->apply(*this, expression.name, value, arguments));
    }
    case ExpressionKind::logical_not:
      return Value::boolean(!truth(item(0)));
    case ExpressionKind::negative:
      return engine::jinja::negative(item(0));
    case ExpressionKind::positive:
      return engine::jinja::positive(item(0));
    case ExpressionKind::binary: {
      const Value left = item(0);
      return binary(*this, expression.op, left, item(1));
    }
    case ExpressionKind::comparison:
      return evaluate_comparison(expression, scope);
    case ExpressionKind::concatenate: {
      std::string text;
      for (size_t i = 0; i < expression.items.size(); ++i) {
        const size_t before = text.size();
        append_text(item(i), budget_, &text);
        budget_.take(text.size() - before);
      }
      return Value::string(std::move(text));
    }
    case ExpressionKind::logical_and: {
      Value left = item(0);
      return truth(left) ? item(1) : left;
    }
    case ExpressionKind::logical_or: {
      Value left = item(0);
      return truth(left) ? left : item(1);
    }
    case ExpressionKind::conditional:
      if (truth(item(1))) return item(0);
      if (expression.items[2]) return item(2);
      return Value::undefined("the inline if-expression on line " +
                              std::to_string(expression.line) +
                              " evaluated to false and no else section was defined.");
    default:
      throw TemplateError("TemplateRuntimeError", "a target is no value");
  }
}

Value Interpreter::evaluate_name(const Expression& expression, const ScopePtr& scope) {
  if (const Value* found = scope->find(expression.symbol)) return *found;
  const std::string& name = expression.name;
  if (const Value* found = variables_.find(std::string_view(name))) return *found;
  if (std::optional<Value> global = find_global(*this, name)) return *global;
  return Value::undefined(quoted(name) + " is undefined");
}

// a < b < c: each pair, until one fails.
Value Interpreter::evaluate_comparison(const Expression& expression, const ScopePtr& scope) {
  Value left = evaluate(*expression.items[0], scope);
  for (size_t i = 0; i < expression.comparisons.size(); ++i) {
    Value right = evaluate(*expression.items[i + 1], scope);
    if (!compare(*this, expression.comparisons[i], left, right)) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

Value Interpreter::evaluate_call(const Expression& expression, const ScopePtr& scope) {
  const Value callee = evaluate(*expression.items[0], scope);
  CallArguments arguments = evaluate_arguments(expression.arguments, scope);
  return call(callee, arguments);
}

Value Interpreter::evaluate_filter(const Expression& expression, const ScopePtr& scope,
                                   const Value* input) {
  const DepthGuard guard(budget_);
  const Expression* source = expression.items[0].get();
  Value value;
  if (!source) {
    value = *input;  // the first filter of a block
  } else if (input && source->kind == ExpressionKind::filter) {
    value = evaluate_filter(*source, scope, input);
  } else {
    value = evaluate(*source, scope);
  }
  const CallArguments arguments = evaluate_arguments(expression.arguments, scope);
  if (!expression.filter) {
    throw TemplateError("TemplateRuntimeError", "No filter named " + quoted(expression.name) + ".");
  }
  pay_to_read(value, budget_);
  pay_to_read(arguments, budget_);
  return expression.filter->apply(*this, expression.name, value, arguments);
}

std::vector<Value> Interpreter::evaluate_items(const Expression& expression,
                                               const ScopePtr& scope) {
  std::vector<Value> items;
  items.reserve(expression.items.size());
  budget_.take(sizeof(Value) * expression.items.size());
  for (const ExpressionPtr& item : expression.items) items.push_back(evaluate(*item, scope));
  return items;
}

Value Interpreter::evaluate_dict(const Expression& expression, const ScopePtr& scope) {
  auto dict = std::make_shared<DictObject>();
  budget_.take(sizeof(Value) * expression.items.size());
  for (size_t i = 0; i < expression.items.size(); i += 2) {
    Value key = evaluate(*expression.items[i], scope);
    dict->set(std::move(key), evaluate(*expression.items[i + 1], scope), budget_);
  }
  return Value::object(Type::dict, std::move(dict));
}

CallArguments Interpreter::evaluate_arguments(const ArgumentList& list, const ScopePtr& scope) {
  CallArguments arguments;
  for (const ExpressionPtr& argument : list.positional) {
    arguments.positional.push_back(evaluate(*argument, scope));
  }
  if (list.star) {
    for (Value& value : collect(*this, evaluate(*list.star, scope))) {
      arguments.positional.push_back(std::move(value));
    }
  }
  for (const auto& [name, argument] : list.keywords) {
    arguments.keywords.emplace_back(name, evaluate(*argument, scope));
  }
  if (list.double_star) {
    const Value mapping = evaluate(*list.double_star, scope);
    if (!mapping.is_dict()) type_error("argument after ** must be a mapping");
    for (const auto& [key, value] : mapping.dict().entries()) {
      if (!key.is_string()) type_error("keywords must be strings");
      budget_.take(sizeof(Value) * 2 + key.text().size());
      arguments.keywords.emplace_back(key.text(), value);
    }
  }
  return arguments;
}

std::optional<Value> callable_attribute(const Value& callable, std::string_view name) {
  const auto* macro = dynamic_cast<const Macro*>(&callable.get<Callable>());
  if (!macro) return std::nullopt;
  if (name == "name") {
    if (macro->statement->kind == StatementKind::call_block) return Value();
    return Value::string(macro->statement->text);
  }
  if (name == "caller") return Value::boolean(macro->statement->signature.uses_caller);
  if (name == "catch_kwargs") return Value::boolean(macro->statement->signature.uses_kwargs);
  if (name == "catch_varargs") return Value::boolean(macro->statement->signature.uses_varargs);
  if (name == "arguments") {
    std::vector<Value> names;
    for (const Parameter& parameter : macro->statement->signature.parameters) {
      names.push_back(Value::string(parameter.name));
    }
    return Value::tuple(std::move(names));
  }
  return std::nullopt;
}

}  // namespace engine::jinja
