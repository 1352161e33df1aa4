// One number or text, as a format says: what % and str.format share.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "tokenizer/chat/jinja/interpreter.h"

namespace engine::jinja {

constexpr int64_t kMaxPrecision = 300;

// What stands behind % or the colon of {:...}.
struct Specification {
  std::string fill = " ";
  char align = 0;  // < > ^ = or 0: by type
  char sign = '-';
  bool alternate = false, zero = false;
  char group = 0;  // , or _
  int64_t width = 0;
  std::optional<int64_t> precision;
  char type = 0;
};

std::string format_integer(const Specification& spec, int64_t value);
std::string format_real(const Specification& spec, double value);
std::string format_text(const Specification& spec, std::string_view text);
// Comes before the text is made.
void pay_width(Interpreter& interpreter, const Specification& spec);

[[noreturn]] void value_error(std::string message);

}  // namespace engine::jinja
