// A parsed template. Nothing in it changes after parsing; several threads may render it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tokenizer/chat/jinja/operators.h"
#include "tokenizer/chat/jinja/value.h"

namespace engine::jinja {

struct Expression;
struct Statement;
struct Filter;
struct Test;
using ExpressionPtr = std::unique_ptr<Expression>;
using Body = std::vector<std::unique_ptr<Statement>>;

// Names are numbered when they are parsed. These come first:
enum ReservedSymbol : int32_t { kLoop, kCaller, kVarargs, kKwargs };

struct ArgumentList {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> keywords;
  ExpressionPtr star, double_star;
};

enum class ExpressionKind : uint8_t {
  constant,
  name,
  list,       // items
  tuple,      // items
  dict,       // items: key, value, key, value, ...
  attribute,  // items[0].name
  item,       // items[0][items[1]]
  slice,      // items[0][items[1]:items[2]:items[3]], those may be null
  call,       // items[0](arguments)
  filter,     // items[0] | name(arguments); items[0] is null in {% filter %} and {% set %}
  test,       // items[0] is name(arguments)
  logical_not,
  negative,
  positive,
  binary,       // items[0] op items[1]
  comparison,   // items[0] comparisons[0] items[1] comparisons[1] items[2] ...
  concatenate,  // items[0] ~ items[1] ~ ...
  logical_and,
  logical_or,
  conditional,  // items[0] if items[1] else items[2], which may be null
  member,       // namespace attribute as a target: symbol.name
};

struct Expression {
  ExpressionKind kind;
  int line = 0;
  int height = 1;  // levels of expressions: evaluating one recurses
  int32_t symbol = -1;
  BinaryOperator op = BinaryOperator::add;
  std::vector<Comparison> comparisons;
  std::string name;
  Value constant;
  std::vector<ExpressionPtr> items;
  ArgumentList arguments;
  const Filter* filter = nullptr;  // null: there is none of that name
  const Test* test = nullptr;
};

struct Parameter {
  int32_t symbol;
  std::string name;
  ExpressionPtr fallback;  // null: none
};

// Of a macro, or of the body of a call block.
struct Signature {
  std::vector<Parameter> parameters;
  bool uses_caller = false, uses_varargs = false, uses_kwargs = false;
  bool has_caller_parameter = false;
};

enum class StatementKind : uint8_t {
  text,
  print,         // expression
  condition,     // branches, otherwise
  loop,          // for target in expression [if filter] [recursive]: body, otherwise
  set,           // target = expression
  set_block,     // target = body, filtered by expression if there is one
  macro,         // symbol, name, signature, body
  call_block,    // expression is the call; signature, body
  filter_block,  // expression is the filter
  with,          // targets = values, body
  generation,    // signature without parameters, body
  break_loop,
  continue_loop,
};

// Names that start undefined in a block (unset_names.h), and their value.
using UnsetNames = std::vector<std::pair<int32_t, Value>>;

struct Statement {
  StatementKind kind;
  int line = 0;
  std::string text;  // text, or the name of a macro
  int32_t symbol = -1;
  bool recursive = false;
  ExpressionPtr target, expression, filter;
  std::vector<std::pair<ExpressionPtr, Body>> branches;
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> assignments;
  Signature signature;
  Body body, otherwise;
  UnsetNames unset, unset_otherwise;  // of body and otherwise, where they are blocks
};

}  // namespace engine::jinja
