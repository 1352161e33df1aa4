// Filters, tests and global functions by name.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "tokenizer/chat/jinja/value.h"

namespace engine::jinja {

struct Filter {
  std::string_view name;
  Value (*apply)(Interpreter&, const std::string& name, const Value& input,
                 const CallArguments& arguments);
};
struct Test {
  std::string_view name;
  bool (*apply)(Interpreter&, const std::string& name, const Value& input,
                const CallArguments& arguments);
};

// Null when there is none of that name.
const Filter* find_filter(std::string_view name);
const Test* find_test(std::string_view name);
// range, dict, namespace, cycler, joiner, raise_exception; strftime_now if there is a date.
std::optional<Value> find_global(const Interpreter& interpreter, std::string_view name);

}  // namespace engine::jinja
