#include "tokenizer/chat/jinja/arguments.h"

#include <algorithm>

namespace engine::jinja {

Arguments::Arguments(const std::string& function, const CallArguments& call,
                     std::initializer_list<const char*> parameters, size_t required)
    : function_(function), parameters_(parameters), given_(parameters.size(), nullptr) {
  if (call.positional.size() > parameters_.size()) {
    type_error(function + "() takes at most " + std::to_string(parameters_.size()) +
               " arguments (" + std::to_string(call.positional.size()) + " given)");
  }
  for (size_t i = 0; i < call.positional.size(); ++i) given_[i] = &call.positional[i];
  for (const auto& [name, value] : call.keywords) {
    const auto at = std::find(parameters_.begin(), parameters_.end(), name);
    if (at == parameters_.end()) {
      type_error(function + "() got an unexpected keyword argument '" + name + "'");
    }
    const Value*& slot = given_[static_cast<size_t>(at - parameters_.begin())];
    if (slot) type_error(function + "() got multiple values for argument '" + name + "'");
    slot = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (!given_[i]) {
      type_error(function + "() missing required argument: '" + std::string(parameters_[i]) + "'");
    }
  }
}

const Value& Arguments::used(size_t i) const {
  const Value& value = at(i);
  if (value.is_undefined()) fail_undefined(value);
  return value;
}

int64_t Arguments::integer(size_t i, int64_t fallback) const {
  if (!has(i)) return fallback;
  const Value& value = used(i);
  if (!value.is_integral()) {
    type_error(function_ + "() argument '" + parameters_[i] + "' must be int, not " +
               type_name(value));
  }
  return value.as_integer();
}

const std::string& Arguments::text(size_t i) const {
  const Value& value = used(i);
  if (!value.is_string()) {
    type_error(function_ + "() argument '" + parameters_[i] + "' must be str, not " +
               type_name(value));
  }
  return value.text();
}

std::optional<std::string_view> Arguments::optional_text(size_t i) const {
  if (at(i).is_none()) return std::nullopt;
  return text(i);
}

}  // namespace engine::jinja
