// Tests: `value is name`.
#include <algorithm>

#include "tokenizer/chat/jinja/arguments.h"
#include "tokenizer/chat/jinja/builtins.h"
#include "tokenizer/chat/jinja/interpreter.h"
#include "tokenizer/chat/jinja/operators.h"
#include "tokenizer/chat/jinja/print.h"
#include "tokenizer/chat/jinja/text.h"

namespace engine::jinja {
namespace {

#define TEST_FUNCTION(NAME)                                                                      \
  bool NAME([[maybe_unused]] Interpreter& interpreter, [[maybe_unused]] const std::string& name, \
            [[maybe_unused]] const Value& input, [[maybe_unused]] const CallArguments& call)

template <Type What>
TEST_FUNCTION(is_type) {
  return input.is(What);
}

TEST_FUNCTION(is_defined) {
  return !input.is_undefined();
}

template <bool What>
TEST_FUNCTION(is_exactly) {
  return input.is(Type::boolean) && input.as_boolean() == What;
}

TEST_FUNCTION(is_number) {
  return input.is_number();
}

TEST_FUNCTION(is_iterable) {
  return iterable(input) || input.is(Type::loop);
}

TEST_FUNCTION(is_sequence) {
  return input.is_string() || input.is_sequence() || input.is_dict() || input.is(Type::range) ||
         input.is_undefined();
}

TEST_FUNCTION(is_callable) {
  return input.is(Type::callable) || input.is(Type::loop) || input.is_undefined();
}

TEST_FUNCTION(is_escaped) {
  return input.markup();
}

template <CharacterClass What>
TEST_FUNCTION(is_case) {
  return is_all(to_text(input, interpreter.budget()), What);
}

bool has_rest(Interpreter& interpreter, const Value& input, const Value& divisor, int64_t rest) {
  return equal(binary(interpreter, BinaryOperator::modulo, input, divisor), Value::integer(rest),
               interpreter.budget());
}

template <int64_t Rest>
TEST_FUNCTION(has_parity) {
  return has_rest(interpreter, input, Value::integer(2), Rest);
}

TEST_FUNCTION(is_divisible) {
  const Arguments arguments(name, call, {"num"}, 1);
  return has_rest(interpreter, input, arguments.at(0), 0);
}

template <Comparison Op>
TEST_FUNCTION(compares) {
  const Arguments arguments(name, call, {"other"}, 1);
  return compare(interpreter, Op, input, arguments.at(0));
}

TEST_FUNCTION(is_same) {
  const Arguments arguments(name, call, {"other"}, 1);
  const Value& other = arguments.at(0);
  if (input.type() != other.type()) return false;
  if (input.shared() || other.shared()) return input.shared() == other.shared();
  return input.is_none() || equal(input, other, interpreter.budget());
}

// Is the value a key of a dict of all filters?
TEST_FUNCTION(is_filter) {
  hash_value(input, interpreter.budget());
  return input.is_string() && find_filter(input.text());
}

TEST_FUNCTION(is_test) {
  hash_value(input, interpreter.budget());
  return input.is_string() && find_test(input.text());
}

#undef TEST_FUNCTION

constexpr Test kTests[] = {
    {"!=", compares<Comparison::not_equal>},
    {"<", compares<Comparison::less>},
    {"<=", compares<Comparison::less_equal>},
    {"==", compares<Comparison::equal>},
    {">", compares<Comparison::greater>},
    {">=", compares<Comparison::greater_equal>},
    {"boolean", is_type<Type::boolean>},
    {"callable", is_callable},
    {"defined", is_defined},
    {"divisibleby", is_divisible},
    {"eq", compares<Comparison::equal>},
    {"equalto", compares<Comparison::equal>},
    {"escaped", is_escaped},
    {"even", has_parity<0>},
    {"false", is_exactly<false>},
    {"filter", is_filter},
    {"float", is_type<Type::real>},
    {"ge", compares<Comparison::greater_equal>},
    {"greaterthan", compares<Comparison::greater>},
    {"gt", compares<Comparison::greater>},
    {"in", compares<Comparison::in>},
    {"integer", is_type<Type::integer>},
    {"iterable", is_iterable},
    {"le", compares<Comparison::less_equal>},
    {"lessthan", compares<Comparison::less>},
    {"lower", is_case<CharacterClass::lower>},
    {"lt", compares<Comparison::less>},
    {"mapping", is_type<Type::dict>},
    {"ne", compares<Comparison::not_equal>},
    {"none", is_type<Type::none>},
    {"number", is_number},
    {"odd", has_parity<1>},
    {"sameas", is_same},
    {"sequence", is_sequence},
    {"string", is_type<Type::string>},
    {"test", is_test},
    {"true", is_exactly<true>},
    {"undefined", is_type<Type::undefined>},
    {"upper", is_case<CharacterClass::upper>},
};

}  // namespace

const Test* find_test(std::string_view name) {
  const auto* at = std::find_if(std::begin(kTests), std::end(kTests),
                                [name](const Test& test) { return test.name == name; });
  return at == std::end(kTests) ? nullptr : at;
}

}  // namespace engine::jinja
