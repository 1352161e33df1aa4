#include "tokenizer/chat/jinja/format_specification.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tokenizer/chat/jinja/print.h"
#include "tokenizer/chat/jinja/text.h"

namespace engine::jinja {
namespace {

std::string grouped(const std::string& digits, char separator) {
  std::string result;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) result += separator;
    result += digits[i];
  }
  return result;
}

// Puts sign and digits into the width.
std::string fitted(const Specification& spec, const std::string& sign, const std::string& body,
                   char usual_align) {
  char align = spec.align != 0 ? spec.align : spec.zero ? '=' : usual_align;
  const std::string fill = spec.zero && spec.align == 0 ? "0" : spec.fill;
  if (align == '=') {
    return sign + pad_to(body, spec.width - static_cast<int64_t>(sign.size()), fill, Side::right);
  }
  // str.format puts the odd one to the right, str.center does not always.
  const std::string whole = sign + body;
  const int64_t missing = spec.width - count_characters(whole);
  if (missing <= 0) return whole;
  const int64_t left = align == '>' ? missing : align == '^' ? missing / 2 : 0;
  std::string result;
  for (int64_t i = 0; i < left; ++i) result += fill;
  result += whole;
  for (int64_t i = left; i < missing; ++i) result += fill;
  return result;
}

std::string sign_text(const Specification& spec, bool negative) {
  if (negative) return "-";
  return spec.sign == '+' ? "+" : spec.sign == ' ' ? " " : "";
}

}  // namespace

std::string format_integer(const Specification& spec, int64_t value) {
  const uint64_t magnitude =
      value < 0 ? -static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  std::string digits, prefix;
  switch (spec.type) {
    case 'x':
      digits = fmt::format("{:x}", magnitude);
      prefix = "0x";
      break;
    case 'X':
      digits = fmt::format("{:X}", magnitude);
      prefix = "0X";
      break;
    case 'o':
      digits = fmt::format("{:o}", magnitude);
      prefix = "0o";
      break;
    case 'b':
      digits = fmt::format("{:b}", magnitude);
      prefix = "0b";
      break;
    default:
      digits = std::to_string(magnitude);
  }
  if (spec.group != 0) digits = grouped(digits, spec.group);
  return fitted(spec, sign_text(spec, value < 0) + (spec.alternate ? prefix : ""), digits, '>');
}

std::string format_real(const Specification& spec, double value) {
  const double magnitude = std::abs(value);
  const int64_t precision = spec.precision.value_or(6);
  if (precision > kMaxPrecision) value_error("precision too big");
  const auto digits = static_cast<int>(precision);
  std::string text;
  switch (spec.type) {
    case 'e':
      text = fmt::format("{:.{}e}", magnitude, digits);
      break;
    case 'E':
      text = fmt::format("{:.{}E}", magnitude, digits);
      break;
    case 'f':
      text = fmt::format("{:.{}f}", magnitude, digits);
      break;
    case 'F':
      text = fmt::format("{:.{}F}", magnitude, digits);
      break;
    case 'g':
      text = fmt::format("{:.{}g}", magnitude, std::max(digits, 1));
      break;
    case 'G':
      text = fmt::format("{:.{}G}", magnitude, std::max(digits, 1));
      break;
    case '%':
      text = fmt::format("{:.{}f}%", magnitude * 100, digits);
      break;
    default:
      text = spec.precision ? fmt::format("{:.{}g}", magnitude, std::max(digits, 1))
                            : real_text(magnitude);
  }
  if (spec.group != 0) {
    const size_t whole = std::min(text.find_first_not_of("0123456789"), text.size());
    text = grouped(text.substr(0, whole), spec.group) + text.substr(whole);
  }
  return fitted(spec, sign_text(spec, std::signbit(value) && !std::isnan(value)), text, '>');
}

std::string format_text(const Specification& spec, std::string_view text) {
  if (spec.precision) text = text.substr(0, character_offset(text, *spec.precision));
  return fitted(spec, "", std::string(text), '<');
}

void pay_width(Interpreter& interpreter, const Specification& spec) {
  interpreter.budget().take(static_cast<size_t>(std::max<int64_t>(0, spec.width)));
}

void value_error(std::string message) {
  throw TemplateError("ValueError", std::move(message));
}

}  // namespace engine::jinja
