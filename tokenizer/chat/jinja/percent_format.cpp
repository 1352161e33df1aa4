// text % arguments.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tokenizer/chat/jinja/format_specification.h"
#include "tokenizer/chat/jinja/interpreter.h"
#include "tokenizer/chat/jinja/operators.h"
#include "tokenizer/chat/jinja/print.h"
#include "tokenizer/chat/jinja/text.h"

namespace engine::jinja {
namespace {

class PercentFormatter {
 public:
  PercentFormatter(Interpreter& interpreter, std::string_view text, const Value& arguments)
      : interpreter_(interpreter), text_(text), arguments_(arguments) {}

  std::string run() {
    std::string out;
    while (at_ < text_.size()) {
      const size_t percent = text_.find('%', at_);
      const std::string_view plain = text_.substr(at_, percent - at_);
      interpreter_.budget().take(plain.size());
      out += plain;
      if (percent == std::string_view::npos) break;
      at_ = percent + 1;
      const std::string piece = conversion();
      interpreter_.budget().step();
      interpreter_.budget().take(piece.size());
      out += piece;
    }
    const bool one = !arguments_.is(Type::tuple) && !is_mapping();
    const bool left = arguments_.is(Type::tuple) ? next_ < arguments_.items().size()
                                                 : one && next_ == 0 && !used_key_;
    if (left) type_error("not all arguments converted during string formatting");
    return out;
  }

 private:
  // What Python takes for one, because it can be indexed: it need not be used.
  bool is_mapping() const {
    return arguments_.is_dict() || arguments_.is(Type::list) || arguments_.is(Type::range) ||
           arguments_.is_undefined();
  }

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
      if (arguments_.is_undefined()) fail_undefined(arguments_);
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

}  // namespace

std::string percent_format(Interpreter& interpreter, std::string_view text,
                           const Value& arguments) {
  return PercentFormatter(interpreter, text, arguments).run();
}

}  // namespace engine::jinja
