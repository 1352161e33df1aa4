// Operators of expressions, and members of values.
#pragma once

#include <optional>

#include "tokenizer/chat/jinja/value.h"

namespace engine::jinja {

enum class BinaryOperator : uint8_t {
  add,
  subtract,
  multiply,
  divide,
  floor_divide,
  modulo,
  power
};
enum class Comparison : uint8_t {
  equal,
  not_equal,
  less,
  less_equal,
  greater,
  greater_equal,
  in,
  not_in
};

Value binary(Interpreter& interpreter, BinaryOperator op, const Value& a, const Value& b);
Value negative(const Value& value);
Value positive(const Value& value);
bool compare(Interpreter& interpreter, Comparison op, const Value& a, const Value& b);
// `item in container`.
bool contains(Interpreter& interpreter, const Value& container, const Value& item);

// object[key]: an element, else a method of that name, else undefined.
Value get_item(Interpreter& interpreter, const Value& object, const Value& key);
// object.name: a method, else the element with that key, else undefined.
Value get_attribute(Interpreter& interpreter, const Value& object, const std::string& name);
struct Slice {
  Value start, stop, step;  // integer or none
};
Value get_slice(Interpreter& interpreter, const Value& object, const Slice& slice);

// A method of a string, list, tuple, dict or loop; nothing if there is none of that name. Those
// that would change the value give an undefined value that raises SecurityError.
std::optional<Value> find_method(const Value& object, std::string_view name);

// text % arguments, and text.format(...).
std::string percent_format(Interpreter& interpreter, std::string_view text, const Value& arguments);
std::string brace_format(Interpreter& interpreter, std::string_view text,
                         const CallArguments& arguments);

}  // namespace engine::jinja
