// How methods of values are written down.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "tokenizer/chat/jinja/interpreter.h"

namespace engine::jinja {

using Method = Value (*)(Interpreter&, const Value& self, const std::string& name,
                         const CallArguments&);

struct NamedMethod {
  std::string_view name;
  Method method;  // null: it would change the value
};

#define METHOD(NAME)                                                                        \
  Value NAME([[maybe_unused]] Interpreter& interpreter, [[maybe_unused]] const Value& self, \
             [[maybe_unused]] const std::string& name, [[maybe_unused]] const CallArguments& call)

std::span<const NamedMethod> string_methods();

}  // namespace engine::jinja
