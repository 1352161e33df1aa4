// Arguments of functions, methods, filters and tests, bound to parameters as Python does.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>

#include "tokenizer/chat/jinja/value.h"

namespace engine::jinja {

class Arguments {
 public:
  // Throws TypeError for too many, unknown, repeated or missing arguments. The first `required`
  // parameters must be given.
  Arguments(const std::string& function, const CallArguments& call,
            std::initializer_list<const char*> parameters, size_t required = 0);

  bool has(size_t i) const { return given_[i] != nullptr; }
  // None when it was not given.
  const Value& at(size_t i) const { return given_[i] ? *given_[i] : none_; }
  // The last two throw TypeError for other types.
  bool boolean(size_t i, bool fallback) const { return has(i) ? truth(at(i)) : fallback; }
  int64_t integer(size_t i, int64_t fallback) const;
  const std::string& text(size_t i) const;
  // Nothing when it was not given or is none.
  std::optional<std::string_view> optional_text(size_t i) const;

 private:
  const Value& used(size_t i) const;
  std::string function_;
  std::vector<const char*> parameters_;
  std::vector<const Value*> given_;
  Value none_;
};

}  // namespace engine::jinja
