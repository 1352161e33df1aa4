// How filters are written down.
#pragma once

#include <string>

#include "tokenizer/chat/jinja/builtins.h"

namespace engine::jinja {

#define FILTER(NAME)                                                                              \
  Value NAME([[maybe_unused]] Interpreter& interpreter, [[maybe_unused]] const std::string& name, \
             const Value& input, [[maybe_unused]] const CallArguments& call)

// Null when there is none of that name.
// On texts, numbers and single values.
const Filter* find_text_filter(std::string_view name);
// One value of many.
const Filter* find_sequence_filter(std::string_view name);
// Iterators over others.
const Filter* find_lazy_filter(std::string_view name);

// The value at "user.name" or 0; for filters with an argument `attribute`.
Value attribute_path(Interpreter& interpreter, const Value& object, const Value& path,
                     const Value* fallback = nullptr);
// Strings in lower case unless case matters, all else as it is.
Value folded(Interpreter& interpreter, const Value& value, bool case_sensitive);

}  // namespace engine::jinja
