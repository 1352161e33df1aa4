// text % arguments, and text.format(...).
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tokenizer/chat/jinja/interpreter.h"
#include "tokenizer/chat/jinja/operators.h"
#include "tokenizer/chat/jinja/print.h"
#include "tokenizer/chat/jinja/text.h"

namespace engine::jinja {
namespace {

constexpr int64_t kMaxPrecision = 300;

[[noreturn]] void value_error(std::string message) {
  throw TemplateError("ValueError", std::move(message));
}

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

// --- text % arguments. ---

class PercentFormatter {
 public:
  PercentFormatter(Interpreter& interpreter, std::string_view text, const Value& arguments)
      : interpreter_(interpreter), text_(text), arguments_(arguments) {}

  std::string run() {
    std::string out;
    while (at_ < text_.size()) {
      const size_t percent = text_.find('%', at_);
      out += text_.substr(at_, percent - at_);
      if (percent == std::string_view::npos) break;
      at_ = percent + 1;
      out += conversion();
      interpreter_.budget().step();
    }
    const bool one = !arguments_.is(Type::tuple) && !arguments_.is_dict();
    const bool left = arguments_.is(Type::tuple) ? next_ < arguments_.items().size()
                                                 : one && next_ == 0 && !used_key_;
    if (left) type_error("not all arguments converted during string formatting");
    return out;
  }

 private:
  char take() {
    if (at_ >= text_.size()) value_error("incomplete format");
    return text_[at_++];
  }

  const Value& argument() {
    if (arguments_.is(Type::tuple)) {
      if (next_ < arguments_.items().size()) return arguments_.items()[next_++];
    } else if (next_++ == 0) {
      return arguments_;
    }
    type_error("not enough arguments for format string");
  }

  int64_t number(char& c) {
    int64_t value = 0;
    while (c >= '0' && c <= '9') {
      value = std::min<int64_t>(value * 10 + (c - '0'), INT32_MAX);
      c = take();
    }
    return value;
  }

  int64_t starred(char& c) {
    const Value& value = argument();
    if (!value.is_integral()) type_error("* wants int");
    c = take();
    return std::clamp<int64_t>(value.as_integer(), -INT32_MAX, INT32_MAX);
  }

  std::string conversion() {
    Specification spec;
    char c = take();
    const Value* keyed = nullptr;
    if (c == '(') {
      const size_t close = text_.find(')', at_);
      if (close == std::string_view::npos) value_error("incomplete format key");
      if (!arguments_.is_dict()) type_error("format requires a mapping");
      const std::string_view key = text_.substr(at_, close - at_);
      keyed = arguments_.dict().find(key);
      if (!keyed) throw TemplateError("KeyError", quoted(key));
      used_key_ = true;
      at_ = close + 1;
      c = take();
    }
    bool left = false;
    for (;; c = take()) {
      if (c == '-') {
        left = true;
      } else if (c == '+' || (c == ' ' && spec.sign != '+')) {
        spec.sign = c;
      } else if (c == '0') {
        spec.zero = true;
      } else if (c == '#') {
        spec.alternate = true;
      } else if (c != ' ') {
        break;
      }
    }
    spec.width = c == '*' ? starred(c) : number(c);
    if (spec.width < 0) {
      left = true;
      spec.width = -spec.width;
    }
    if (c == '.') {
      c = take();
      spec.precision = std::max<int64_t>(0, c == '*' ? starred(c) : number(c));
    }
    if (c == 'h' || c == 'l' || c == 'L') c = take();
    if (c == '%') return "%";
    if (left) {
      spec.align = '<';
      spec.zero = false;
    }
    pay_width(interpreter_, spec);
    return convert(spec, c, keyed ? *keyed : argument());
  }

  std::string convert(Specification spec, char c, const Value& value) {
    Budget& budget = interpreter_.budget();
    spec.type = c;
    const auto as_text = [&](std::string_view text) {
      spec.zero = false;
      if (spec.align == 0) spec.align = '>';
      return format_text(spec, text);
    };
    switch (c) {
      case 's':
        return as_text(to_text(value, budget));
      case 'r':
      case 'a':
        return as_text(repr(value, budget));
      case 'c':
        if (value.is_string() && length(value) == 1) return as_text(value.text());
        type_error("%c requires int or char");
      case 'd':
      case 'i':
      case 'u':
      case 'x':
      case 'X':
      case 'o':
        return integer(spec, c, value);
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G':
        if (value.is_undefined()) fail_undefined(value);
        if (!value.is_number()) type_error("must be real number, not " + type_name(value));
        return format_real(spec, value.as_real());
      default:
        value_error(fmt::format("unsupported format character '{}'", c));
    }
  }

  std::string integer(Specification spec, char c, const Value& value) {
    if (value.is_undefined()) fail_undefined(value);
    const bool decimal = c == 'd' || c == 'i' || c == 'u';
    if (!(value.is_integral() || (decimal && value.is(Type::real)))) {
      type_error(fmt::format("%{} format: a {} is required, not {}", c,
                             decimal ? "real number" : "integer", type_name(value)));
    }
    const double real = value.as_real();
    if (value.is(Type::real) && !(std::abs(real) < 9.2e18)) {
      throw TemplateError("OverflowError", "integer needs more than 64 bits");
    }
    const int64_t number = value.is(Type::real) ? static_cast<int64_t>(real) : value.as_integer();
    if (spec.precision && *spec.precision > 0) {  // the fewest digits
      if (*spec.precision > kMaxPrecision) value_error("precision too big");
      Specification plain = spec;
      plain.width = *spec.precision + (number < 0 || spec.sign != '-');
      plain.zero = true;
      plain.align = 0;
      const std::string digits = format_integer(plain, number);
      spec.type = 's';
      spec.precision.reset();
      if (spec.align == 0) spec.align = '>';
      spec.zero = false;
      return format_text(spec, digits);
    }
    return format_integer(spec, number);
  }

  Interpreter& interpreter_;
  std::string_view text_;
  const Value& arguments_;
  size_t at_ = 0;
  size_t next_ = 0;
  bool used_key_ = false;
};

// --- text.format(...). ---

class BraceFormatter {
 public:
  BraceFormatter(Interpreter& interpreter, const CallArguments& arguments)
      : interpreter_(interpreter), arguments_(arguments) {}

  std::string run(std::string_view text, int depth) {
    if (depth > 1) value_error("Max string recursion exceeded");
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
      const char c = text[i];
      if ((c == '{' || c == '}') && i + 1 < text.size() && text[i + 1] == c) {
        out += c;
        ++i;
      } else if (c == '}') {
        value_error("Single '}' encountered in format string");
      } else if (c == '{') {
        const size_t close = closing(text, i + 1);
        out += field(text.substr(i + 1, close - i - 1), depth);
        i = close;
      } else {
        out += c;
      }
    }
    return out;
  }

 private:
  static size_t closing(std::string_view text, size_t at) {
    int open = 1;
    for (; at < text.size(); ++at) {
      if (text[at] == '{') ++open;
      if (text[at] == '}' && --open == 0) return at;
    }
    value_error("expected '}' before end of string");
  }

  std::string field(std::string_view text, int depth) {
    interpreter_.budget().step();
    size_t end = 0;
    for (int brackets = 0; end < text.size(); ++end) {
      if (text[end] == '[') ++brackets;
      if (text[end] == ']') --brackets;
      if (brackets == 0 && (text[end] == ':' || text[end] == '!')) break;
    }
    Value value = lookup(text.substr(0, end));
    std::string_view rest = text.substr(end);
    if (rest.starts_with('!')) {
      const char conversion = rest.size() > 1 ? rest[1] : ' ';
      if (conversion != 's' && conversion != 'r' && conversion != 'a') {
        value_error("unknown conversion in a format string");
      }
      value = Value::string(conversion == 's' ? to_text(value, interpreter_.budget())
                                              : repr(value, interpreter_.budget()));
      rest.remove_prefix(2);
    }
    std::string spec;
    if (rest.starts_with(':')) spec = run(rest.substr(1), depth + 1);
    return apply(value, spec);
  }

  Value lookup(std::string_view path) {
    size_t end = std::min(path.find_first_of(".["), path.size());
    const std::string_view first = path.substr(0, end);
    Value value;
    const bool number = first.find_first_not_of("0123456789") == std::string_view::npos;
    if (number) {
      if (first.size() > 9) value_error("Too many decimal digits in format string");
      const size_t index = first.empty() ? next_++ : std::stoul(std::string(first));
      if (index >= arguments_.positional.size()) {
        throw TemplateError("IndexError", "Replacement index " + std::to_string(index) +
                                              " out of range for positional args tuple");
      }
      value = arguments_.positional[index];
    } else {
      const auto at = std::find_if(arguments_.keywords.begin(), arguments_.keywords.end(),
                                   [first](const auto& entry) { return entry.first == first; });
      if (at == arguments_.keywords.end()) throw TemplateError("KeyError", quoted(first));
      value = at->second;
    }
    while (end < path.size()) {
      if (path[end] == '.') {
        const size_t stop = std::min(path.find_first_of(".[", end + 1), path.size());
        value =
            get_attribute(interpreter_, value, std::string(path.substr(end + 1, stop - end - 1)));
        end = stop;
      } else {
        const size_t stop = path.find(']', end);
        if (path[end] != '[' || stop == std::string_view::npos) {
          value_error("Missing ']' in format string");
        }
        const std::string key(path.substr(end + 1, stop - end - 1));
        const bool index = !key.empty() && key.size() < 10 &&
                           key.find_first_not_of("0123456789") == std::string::npos;
        value = get_item(interpreter_, value,
                         index ? Value::integer(std::stoll(key)) : Value::string(key));
        end = stop + 1;
      }
    }
    return value;
  }

  static Specification parse(std::string_view text) {
    Specification spec;
    const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
    const size_t first = character_offset(text, 1);
    if (first < text.size() && is_align(text[first])) {
      spec.fill = std::string(text.substr(0, first));
      spec.align = text[first];
      text.remove_prefix(first + 1);
    } else if (!text.empty() && is_align(text[0])) {
      spec.align = text[0];
      text.remove_prefix(1);
    }
    const auto take = [&text](char c) {
      if (text.empty() || text[0] != c) return false;
      text.remove_prefix(1);
      return true;
    };
    for (const char sign : {'+', '-', ' '}) {
      if (take(sign)) {
        spec.sign = sign;
        break;
      }
    }
    spec.alternate = take('#');
    if (take('0')) {
      spec.zero = spec.align == 0;
      if (spec.align != 0 && spec.fill == " ") spec.fill = "0";
    }
    const auto number = [&text] {
      int64_t value = 0;
      while (!text.empty() && text[0] >= '0' && text[0] <= '9') {
        value = std::min<int64_t>(value * 10 + (text[0] - '0'), INT32_MAX);
        text.remove_prefix(1);
      }
      return value;
    };
    spec.width = number();
    if (take(',')) {
      spec.group = ',';
    } else if (take('_')) {
      spec.group = '_';
    }
    if (take('.')) {
      if (text.empty() || text[0] < '0' || text[0] > '9') {
        value_error("Format specifier missing precision");
      }
      spec.precision = number();
    }
    if (text.size() > 1) value_error("Invalid format specifier");
    if (!text.empty()) spec.type = text[0];
    return spec;
  }

  std::string apply(const Value& value, const std::string& text) {
    if (text.empty()) return to_text(value, interpreter_.budget());
    const Specification spec = parse(text);
    pay_width(interpreter_, spec);
    const bool integer_type = std::string_view("bdoxXn").find(spec.type) != std::string_view::npos;
    const bool real_type = std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos;
    const bool whole = value.is(Type::integer) || (value.is(Type::boolean) && spec.type != 0);
    if (whole && (spec.type == 0 || integer_type)) {
      if (spec.precision) value_error("Precision not allowed in integer format specifier");
      return format_integer(spec, value.as_integer());
    }
    if ((whole && real_type) || (value.is(Type::real) && (spec.type == 0 || real_type))) {
      return format_real(spec, value.as_real());
    }
    if (value.is_string() && (spec.type == 0 || spec.type == 's') && spec.align != '=') {
      Specification plain = spec;
      if (plain.zero) {
        plain.fill = "0";
        plain.align = '<';
        plain.zero = false;
      }
      return format_text(plain, value.text());
    }
    if (value.is_string() || value.is_number()) {
      value_error(fmt::format("Unknown format code '{}' for object of type '{}'",
                              spec.type == 0 ? ' ' : spec.type, type_name(value)));
    }
    type_error("unsupported format string passed to " + type_name(value) + ".__format__");
  }

  Interpreter& interpreter_;
  const CallArguments& arguments_;
  size_t next_ = 0;
};

}  // namespace

std::string percent_format(Interpreter& interpreter, std::string_view text,
                           const Value& arguments) {
  return PercentFormatter(interpreter, text, arguments).run();
}

std::string brace_format(Interpreter& interpreter, std::string_view text,
                         const CallArguments& arguments) {
  return BraceFormatter(interpreter, arguments).run(text, 0);
}

}  // namespace engine::jinja
