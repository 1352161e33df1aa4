#include "tokenizer/chat/jinja/numbers.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string>

#include "tokenizer/chat/jinja/text.h"

namespace engine::jinja {
namespace {

// Removes underscores that stand between digits; false when one stands elsewhere.
bool drop_underscores(std::string& text) {
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') continue;
    const bool between = i > 0 && i + 1 < text.size() && std::isalnum(text[i - 1]) != 0 &&
                         std::isalnum(text[i + 1]) != 0;
    if (!between) return false;
  }
  std::erase(text, '_');
  return true;
}

}  // namespace

std::optional<int64_t> parse_integer(std::string_view text, int64_t base) {
  if (base != 0 && (base < 2 || base > 36)) {
    throw TemplateError("ValueError", "int() base must be >= 2 and <= 36, or 0");
  }
  text = strip(text);
  bool negative = false;
  if (!text.empty() && (text[0] == '+' || text[0] == '-')) {
    negative = text[0] == '-';
    text.remove_prefix(1);
  }
  std::string digits(text);
  if (digits.size() > 2 && digits[0] == '0') {
    const char letter = static_cast<char>(digits[1] | 0x20);
    const int64_t named = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    if (named != 0 && (base == named || base == 0)) {
      digits.erase(0, digits[2] == '_' ? 3 : 2);
      base = named;
    }
  }
  if (base == 0) {
    base = 10;
    const bool zeros = digits.find_first_not_of("0_") == std::string::npos;
    if (digits.size() > 1 && digits[0] == '0' && !zeros) return std::nullopt;
  }
  if (!drop_underscores(digits) || digits.empty()) return std::nullopt;
  uint64_t value = 0;
  const auto result =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, static_cast<int>(base));
  if (result.ptr != digits.data() + digits.size()) return std::nullopt;
  if (result.ec != std::errc() || value > static_cast<uint64_t>(INT64_MAX) + negative) {
    throw TemplateError("OverflowError", "integer needs more than 64 bits");
  }
  return static_cast<int64_t>(negative ? -value : value);
}

std::optional<double> parse_real(std::string_view text) {
  std::string digits(strip(text));
  if (!drop_underscores(digits)) return std::nullopt;
  const bool sign = !digits.empty() && (digits[0] == '+' || digits[0] == '-');
  const bool negative = sign && digits[0] == '-';
  if (sign) digits.erase(0, 1);
  if (digits.empty() || digits[0] == '+' || digits[0] == '-') return std::nullopt;
  double value = 0;
  const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (result.ptr != digits.data() + digits.size()) return std::nullopt;
  if (result.ec == std::errc::result_out_of_range) {
    const size_t e = digits.find_first_of("eE");
    value = e != std::string::npos && digits[e + 1] == '-' ? 0 : HUGE_VAL;
  } else if (result.ec != std::errc()) {
    return std::nullopt;
  }
  // from_chars also takes nan(...), which Python does not.
  if (digits.find('(') != std::string::npos) return std::nullopt;
  return negative ? -value : value;
}

Value rounded(const Value& value, int64_t precision) {
  if (value.is_integral()) {
    const int64_t integer = value.as_integer();
    if (precision >= 0) return Value::integer(integer);
    if (precision < -18) return Value::integer(0);
    int64_t unit = 1;
    for (int64_t i = precision; i < 0; ++i) unit *= 10;
    int64_t rest = integer % unit;
    if (rest < 0) rest += unit;
    int64_t down = integer - rest;
    const bool up = rest * 2 > unit || (rest * 2 == unit && (down / unit) % 2 != 0);
    if (up && __builtin_add_overflow(down, unit, &down)) {
      throw TemplateError("OverflowError", "integer needs more than 64 bits");
    }
    return Value::integer(down);
  }
  const double real = value.as_real();
  if (!std::isfinite(real)) return value;
  if (precision >= 0) {
    // The decimal expansion is exact, and printing rounds it halves to even.
    const std::string text = fmt::format("{:.{}f}", real, std::min<int64_t>(precision, 340));
    double result = real;
    std::from_chars(text.data(), text.data() + text.size(), result);
    return Value::real(result);
  }
  // The exact expansion again: so many of its digits stay.
  const std::string exact = fmt::format("{:.780e}", std::abs(real));
  const int64_t exponent = std::atoll(exact.c_str() + exact.find('e') + 1);
  const int64_t digits = exponent + precision;  // behind the first
  double result = 0;
  if (digits >= 0) {
    const std::string text = fmt::format("{:.{}e}", std::abs(real), digits);
    if (std::from_chars(text.data(), text.data() + text.size(), result).ec != std::errc()) {
      throw TemplateError("OverflowError", "rounded value too large to represent");
    }
  } else if (digits == -1) {  // more than half of the unit is rounded up to it, half is down to 0
    const bool up =
        exact[0] > '5' || (exact[0] == '5' && exact.find_first_not_of("0.", 1) < exact.find('e'));
    if (up) result = std::pow(10.0, static_cast<double>(exponent + 1));
  }
  return Value::real(std::copysign(result, real));
}

}  // namespace engine::jinja
