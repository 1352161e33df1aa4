// Values as text: str(), repr() and json.dumps() of Python.
#pragma once

#include <optional>
#include <string>

#include "tokenizer/chat/jinja/value.h"

namespace engine::jinja {

// What {{ value }} prints.
std::string to_text(const Value& value, Budget& budget);
void append_text(const Value& value, Budget& budget, std::string* out);
// How a value looks inside a printed list.
std::string repr(const Value& value, Budget& budget);
std::string quoted(std::string_view text);  // repr of a string
std::string real_text(double value);        // repr of a float

struct JsonOptions {
  std::optional<std::string> indent;  // of one level; nothing = all on one line
  std::string item_separator = ", ", key_separator = ": ";
  bool ensure_ascii = false, sort_keys = false;
};
// Throws TypeError for what JSON cannot hold.
std::string json_dumps(const Value& value, const JsonOptions& options, Budget& budget);

}  // namespace engine::jinja
