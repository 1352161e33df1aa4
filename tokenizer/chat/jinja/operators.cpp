#include "tokenizer/chat/jinja/operators.h"

#include <cmath>

#include "tokenizer/chat/jinja/interpreter.h"
#include "tokenizer/chat/jinja/text.h"

namespace engine::jinja {
namespace {

constexpr const char* kSymbols[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};

[[noreturn]] void overflow() {
  throw TemplateError("OverflowError", "integer needs more than 64 bits");
}

[[noreturn]] void division_by_zero(const char* what) {
  throw TemplateError("ZeroDivisionError", what);
}

int64_t floor_divide(int64_t a, int64_t b) {
  if (b == 0) division_by_zero("integer division or modulo by zero");
  if (a == INT64_MIN && b == -1) overflow();
  return a / b - ((a % b != 0) && ((a < 0) != (b < 0)));
}

int64_t modulo(int64_t a, int64_t b) {
  if (b == 0) division_by_zero("integer modulo by zero");
  if (b == -1) return 0;
  const int64_t rest = a % b;
  return rest != 0 && ((rest < 0) != (b < 0)) ? rest + b : rest;
}

double modulo(double a, double b) {
  if (b == 0) division_by_zero("float modulo");
  double rest = std::fmod(a, b);
  if (rest != 0) {
    if ((rest < 0) != (b < 0)) rest += b;
  } else {
    rest = std::copysign(0.0, b);
  }
  return rest;
}

// In the order of CPython's float_floor_div, which rounds.
double floor_divide(double a, double b) {
  if (b == 0) division_by_zero("float floor division by zero");
  const double rest = std::fmod(a, b);
  double quotient = (a - rest) / b;
  if (rest != 0 && (rest < 0) != (b < 0)) quotient -= 1;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double whole = std::floor(quotient);
  return quotient - whole > 0.5 ? whole + 1 : whole;
}

Value power(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral() && b.as_integer() >= 0) {
    int64_t result = 1, base = a.as_integer();
    for (int64_t left = b.as_integer(); left > 0;) {
      if ((left & 1) && __builtin_mul_overflow(result, base, &result)) overflow();
      left >>= 1;
      if (left > 0 && __builtin_mul_overflow(base, base, &base)) overflow();
    }
    return Value::integer(result);
  }
  const double base = a.as_real(), exponent = b.as_real();
  if (base == 0 && exponent < 0) {
    division_by_zero("0.0 cannot be raised to a negative power");
  }
  if (base < 0 && exponent != std::trunc(exponent)) {
    throw TemplateError("UnsupportedError", "complex numbers");
  }
  const double result = std::pow(base, exponent);
  if (std::isinf(result) && !std::isinf(base) && !std::isinf(exponent)) {
    throw TemplateError("OverflowError", "Numerical result out of range");
  }
  return Value::real(result);
}

Value integer_arithmetic(BinaryOperator op, int64_t a, int64_t b) {
  int64_t result = 0;
  switch (op) {
    case BinaryOperator::add:
      if (__builtin_add_overflow(a, b, &result)) overflow();
      return Value::integer(result);
    case BinaryOperator::subtract:
      if (__builtin_sub_overflow(a, b, &result)) overflow();
      return Value::integer(result);
    case BinaryOperator::multiply:
      if (__builtin_mul_overflow(a, b, &result)) overflow();
      return Value::integer(result);
    case BinaryOperator::divide:
      if (b == 0) division_by_zero("division by zero");
      return Value::real(static_cast<double>(a) / static_cast<double>(b));
    case BinaryOperator::floor_divide:
      return Value::integer(floor_divide(a, b));
    case BinaryOperator::modulo:
      return Value::integer(modulo(a, b));
    case BinaryOperator::power:
      break;
  }
  return {};
}

Value real_arithmetic(BinaryOperator op, double a, double b) {
  switch (op) {
    case BinaryOperator::add:
      return Value::real(a + b);
    case BinaryOperator::subtract:
      return Value::real(a - b);
    case BinaryOperator::multiply:
      return Value::real(a * b);
    case BinaryOperator::divide:
      if (b == 0) division_by_zero("float division by zero");
      return Value::real(a / b);
    case BinaryOperator::floor_divide:
      return Value::real(floor_divide(a, b));
    case BinaryOperator::modulo:
      return Value::real(modulo(a, b));
    case BinaryOperator::power:
      break;
  }
  return {};
}

Value repeat(Interpreter& interpreter, const Value& what, int64_t count) {
  if (count < 0) count = 0;
  Budget& budget = interpreter.budget();
  if (what.is_string()) {
    const std::string& text = what.text();
    if (!text.empty() && count > INT32_MAX) count = INT32_MAX;  // more than the budget anyway
    if (text.empty()) count = 0;
    budget.take(text.size() * static_cast<size_t>(count));
    std::string result;
    result.reserve(text.size() * static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) result += text;
    return Value::string(std::move(result), what.markup());
  }
  const std::vector<Value>& items = what.items();
  if (!items.empty() && count > INT32_MAX) count = INT32_MAX;
  if (items.empty()) count = 0;
  budget.take(sizeof(Value) * items.size() * static_cast<size_t>(count));
  std::vector<Value> result;
  for (int64_t i = 0; i < count; ++i) result.insert(result.end(), items.begin(), items.end());
  return what.is(Type::list) ? Value::list(std::move(result)) : Value::tuple(std::move(result));
}

// a + b of strings; where one of them is markup, the other is escaped.
Value join_strings(Interpreter& interpreter, const Value& a, const Value& b) {
  const bool markup = a.markup() || b.markup();
  const auto part = [markup](const Value& value) {
    return markup && !value.markup() ? escape_html(value.text()) : value.text();
  };
  interpreter.budget().take(a.text().size() + b.text().size());
  return Value::string(part(a) + part(b), markup);
}

Value join_sequences(Interpreter& interpreter, const Value& a, const Value& b) {
  std::vector<Value> result;
  interpreter.budget().take(sizeof(Value) * (a.items().size() + b.items().size()));
  result.reserve(a.items().size() + b.items().size());
  result.insert(result.end(), a.items().begin(), a.items().end());
  result.insert(result.end(), b.items().begin(), b.items().end());
  return a.is(Type::list) ? Value::list(std::move(result)) : Value::tuple(std::move(result));
}

}  // namespace

Value binary(Interpreter& interpreter, BinaryOperator op, const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (op == BinaryOperator::power) return power(a, b);
    if (a.is_integral() && b.is_integral()) {
      return integer_arithmetic(op, a.as_integer(), b.as_integer());
    }
    return real_arithmetic(op, a.as_real(), b.as_real());
  }
  if (op == BinaryOperator::modulo && a.is_string()) {
    pay_to_read(a, interpreter.budget());
    return Value::string(percent_format(interpreter, a.text(), b), a.markup());
  }
  if (a.is_undefined()) fail_undefined(a);
  if (b.is_undefined()) fail_undefined(b);
  if (op == BinaryOperator::add) {
    if (a.is_string() && b.is_string()) return join_strings(interpreter, a, b);
    if (a.is_sequence() && a.type() == b.type()) return join_sequences(interpreter, a, b);
    if (a.is_string() || a.is_sequence()) {
      const std::string name = type_name(a);
      type_error("can only concatenate " + name + " (not \"" + type_name(b) + "\") to " + name);
    }
  }
  if (op == BinaryOperator::multiply) {
    const bool repeatable_a = a.is_string() || a.is_sequence();
    const bool repeatable_b = b.is_string() || b.is_sequence();
    if (repeatable_a && b.is_integral()) return repeat(interpreter, a, b.as_integer());
    if (repeatable_b && a.is_integral()) return repeat(interpreter, b, a.as_integer());
    if (repeatable_a || repeatable_b) {
      type_error("can't multiply sequence by non-int of type '" + type_name(repeatable_a ? b : a) +
                 "'");
    }
  }
  type_error(std::string("unsupported operand type(s) for ") + kSymbols[static_cast<size_t>(op)] +
             ": '" + type_name(a) + "' and '" + type_name(b) + "'");
}

Value negative(const Value& value) {
  if (value.is_undefined()) fail_undefined(value);
  if (value.is_integral()) {
    if (value.as_integer() == INT64_MIN) overflow();
    return Value::integer(-value.as_integer());
  }
  if (value.is(Type::real)) return Value::real(-value.as_real());
  type_error("bad operand type for unary -: '" + type_name(value) + "'");
}

Value positive(const Value& value) {
  if (value.is_undefined()) fail_undefined(value);
  if (value.is_integral()) return Value::integer(value.as_integer());
  if (value.is(Type::real)) return value;
  type_error("bad operand type for unary +: '" + type_name(value) + "'");
}

bool contains(Interpreter& interpreter, const Value& container, const Value& item) {
  Budget& budget = interpreter.budget();
  switch (container.type()) {
    case Type::string:
      if (!item.is_string()) {
        type_error("'in <string>' requires string as left operand, not " + type_name(item));
      }
      pay_to_compare(container, budget);
      pay_to_compare(item, budget);
      return find_text(container.text(), item.text()) != std::string::npos;
    case Type::dict:
      return container.dict().find(item, budget) != nullptr;
    default:
      break;
  }
  if (!iterable(container)) {
    type_error("argument of type '" + type_name(container) + "' is not iterable");
  }
  const auto iterator = iterate(container);
  while (const auto element = iterator->next(interpreter)) {
    if (equal(*element, item, budget)) return true;
  }
  return false;
}

bool compare(Interpreter& interpreter, Comparison op, const Value& a, const Value& b) {
  Budget& budget = interpreter.budget();
  const auto nan = [](const Value& value) {
    return value.is(Type::real) && std::isnan(value.as_real());
  };
  const auto ordered = [&](const char* symbol, bool less, bool same, bool greater) {
    if (a.is_number() && b.is_number() && (nan(a) || nan(b))) return false;
    const int result = order(a, b, symbol, budget);
    return result < 0 ? less : result == 0 ? same : greater;
  };
  switch (op) {
    case Comparison::equal:
      return equal(a, b, budget);
    case Comparison::not_equal:
      return !equal(a, b, budget);
    case Comparison::less:
      return ordered("<", true, false, false);
    case Comparison::less_equal:
      return ordered("<=", true, true, false);
    case Comparison::greater:
      return ordered(">", false, false, true);
    case Comparison::greater_equal:
      return ordered(">=", false, true, true);
    case Comparison::in:
      return contains(interpreter, b, a);
    case Comparison::not_in:
      return !contains(interpreter, b, a);
  }
  return false;
}

}  // namespace engine::jinja
