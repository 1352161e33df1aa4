// text.format(...).
#include <fmt/format.h>

#include <algorithm>

#include "tokenizer/chat/jinja/format_specification.h"
#include "tokenizer/chat/jinja/interpreter.h"
#include "tokenizer/chat/jinja/operators.h"
#include "tokenizer/chat/jinja/print.h"
#include "tokenizer/chat/jinja/text.h"

namespace engine::jinja {
namespace {

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
        const std::string piece = field(text.substr(i + 1, close - i - 1), depth);
        interpreter_.budget().take(piece.size());
        out += piece;
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
      interpreter_.budget().step(arguments_.keywords.size());
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

std::string brace_format(Interpreter& interpreter, std::string_view text,
                         const CallArguments& arguments) {
  return BraceFormatter(interpreter, arguments).run(text, 0);
}

}  // namespace engine::jinja
