// Numbers as Python reads and rounds them.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "tokenizer/chat/jinja/value.h"

namespace engine::jinja {

// int(text, base): white space around, a sign, underscores between digits. Nothing where Python
// raises ValueError; throws OverflowError above 64 bits.
std::optional<int64_t> parse_integer(std::string_view text, int64_t base);
// float(text).
std::optional<double> parse_real(std::string_view text);
// round(value, precision): halves to even, of the exact binary value.
Value rounded(const Value& value, int64_t precision);

}  // namespace engine::jinja
