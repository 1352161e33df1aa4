// Renders a parsed template.
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tokenizer/chat/jinja/ast.h"
#include "tokenizer/chat/jinja/parser.h"
#include "tokenizer/chat/jinja/scope.h"
#include "tokenizer/chat/jinja/value.h"

namespace engine::jinja {

struct Span {
  size_t begin = 0, end = 0;  // bytes
  bool operator==(const Span&) const = default;
};

struct RenderOptions {
  Limits limits;
  // What strftime_now() takes for now. Nothing: templates do not see that function, and those that
  // ask whether it is there use a date of their own.
  std::optional<std::tm> now;
};

// Where transformers takes the text of a {% generation %} block to be: behind all that was printed
// before, for as many characters as the text has. What stands around the block in a macro, a
// {% set %} or {% filter %} block, a recursive loop or another generation block is not printed yet
// when it ends.
struct GenerationBlock {
  Span span;
  bool nested = false;    // it ran within another one
  bool in_place = false;  // its text is there
};

struct Rendering {
  std::string text;
  std::vector<GenerationBlock> generations;  // in the order of their ends
};

// `variables` are strings to values: messages, tools, bos_token, ... Throws TemplateError.
Rendering render(const Template& parsed, const DictObject& variables, const RenderOptions& options);

// What builtins need of the running template.
class Interpreter {
 public:
  Interpreter(const Template& parsed, const DictObject& variables, const RenderOptions& options);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  Rendering run();

  Budget& budget() { return budget_; }
  const RenderOptions& options() const { return options_; }
  Value call(const Value& callee, CallArguments& arguments);
  Value apply_filter(const std::string& name, const Value& input, const CallArguments& arguments);
  bool apply_test(const std::string& name, const Value& input, const CallArguments& arguments);

  // Namespaces live until the end: they may form circles.
  void keep(std::shared_ptr<SpaceObject> space) { spaces_.push_back(std::move(space)); }
  std::string call_macro(const Statement& statement, const std::shared_ptr<Scope>& definition,
                         CallArguments& arguments);
  // Evaluates a condition of `for ... if` for one element.
  bool accepts(const Statement& loop, const std::shared_ptr<Scope>& scope, const Value& element);

 private:
  enum class Flow : uint8_t { next, break_loop, continue_loop };
  using ScopePtr = std::shared_ptr<Scope>;
  class Capture;

  ScopePtr inner(const ScopePtr& scope, const UnsetNames& unset);
  Flow execute(const Body& body, const ScopePtr& scope);
  Flow execute(const Statement& statement, const ScopePtr& scope);
  Flow run_condition(const Statement& statement, const ScopePtr& scope);
  void run_loop(const Statement& statement, const ScopePtr& scope, const Value& iterable,
                int64_t depth);
  std::string run_recursive_loop(const Statement& statement, const ScopePtr& scope,
                                 const Value& iterable, int64_t depth);
  void run_set_block(const Statement& statement, const ScopePtr& scope);
  void run_call_block(const Statement& statement, const ScopePtr& scope);
  void run_filter_block(const Statement& statement, const ScopePtr& scope);
  void run_with(const Statement& statement, const ScopePtr& scope);
  void run_generation(const Statement& statement, const ScopePtr& scope);
  std::string captured(const Body& body, const ScopePtr& scope);
  std::string recurse(const LoopObject& loop, const Value& iterable);
  SpaceObject& namespace_of(const Expression& member, const ScopePtr& scope);
  void check_members(const Expression& target, const ScopePtr& scope);
  void assign(const Expression& target, const ScopePtr& scope, const Value& value);
  void write(std::string_view text);

  Value evaluate(const Expression& expression, const ScopePtr& scope);
  Value evaluate_compound(const Expression& expression, const ScopePtr& scope);
  Value evaluate_name(const Expression& expression, const ScopePtr& scope);
  Value evaluate_comparison(const Expression& expression, const ScopePtr& scope);
  Value evaluate_call(const Expression& expression, const ScopePtr& scope);
  Value evaluate_filter(const Expression& expression, const ScopePtr& scope, const Value* input);
  Value evaluate_dict(const Expression& expression, const ScopePtr& scope);
  std::vector<Value> evaluate_items(const Expression& expression, const ScopePtr& scope);
  CallArguments evaluate_arguments(const ArgumentList& list, const ScopePtr& scope);
  Value make_macro(const Statement& statement, const ScopePtr& scope, bool caller);

  const Template& template_;
  const DictObject& variables_;
  const RenderOptions& options_;
  Budget budget_;
  std::string text_;
  std::string* out_ = &text_;
  struct Generation {
    size_t begin = 0;
    std::string text;
    bool nested = false;
  };
  std::vector<Generation> generations_;
  int generation_depth_ = 0;
  int line_ = 0;  // of what is executed
  std::vector<std::shared_ptr<SpaceObject>> spaces_;
  std::vector<ScopePtr> captured_scopes_;  // by macros, which may outlive their block
};

// name of a macro and the like.
std::optional<Value> callable_attribute(const Value& callable, std::string_view name);

}  // namespace engine::jinja
