// Filters on texts, numbers and single values.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tokenizer/chat/jinja/arguments.h"
#include "tokenizer/chat/jinja/filter_table.h"
#include "tokenizer/chat/jinja/interpreter.h"
#include "tokenizer/chat/jinja/numbers.h"
#include "tokenizer/chat/jinja/operators.h"
#include "tokenizer/chat/jinja/print.h"
#include "tokenizer/chat/jinja/text.h"

namespace engine::jinja {
namespace {

// str(input), but markup stays markup.
Value soft_string(Interpreter& interpreter, const Value& input) {
  if (input.is_string()) return input;
  return Value::string(to_text(input, interpreter.budget()));
}

// A method of str, as a filter on anything.
FILTER(filter_method) {
  const Value text = soft_string(interpreter, input);
  CallArguments arguments = call;
  Value method = *find_method(text, name == "trim" ? "strip" : std::string_view(name));
  return interpreter.call(method, arguments);
}

FILTER(filter_center) {
  CallArguments arguments = call;
  if (arguments.positional.empty() && arguments.keywords.empty()) {
    arguments.positional.push_back(Value::integer(80));
  }
  return filter_method(interpreter, name, input, arguments);
}

FILTER(filter_trim) {
  CallArguments arguments = call;
  for (auto& [keyword, value] : arguments.keywords) {
    if (keyword == "chars") arguments.positional.push_back(value);
  }
  arguments.keywords.clear();
  return filter_method(interpreter, name, input, arguments);
}

FILTER(filter_replace) {
  const Arguments arguments(name, call, {"old", "new", "count"}, 2);
  Budget& budget = interpreter.budget();
  CallArguments texts;
  for (size_t i = 0; i < 2; ++i) {
    texts.positional.push_back(Value::string(to_text(arguments.at(i), budget)));
  }
  if (!arguments.at(2).is_none()) texts.positional.push_back(arguments.at(2));
  const Value text = Value::string(to_text(input, budget));
  return interpreter.call(*find_method(text, "replace"), texts);
}

// Words begin behind white space and one of -({[<.
FILTER(filter_title) {
  const Value text = soft_string(interpreter, input);
  interpreter.budget().take(text.text().size());
  std::string result, word;
  const auto flush = [&] {
    const size_t first = character_offset(word, 1);
    result += to_upper(word.substr(0, first)) + to_lower(word.substr(first));
    word.clear();
  };
  bool in_word = true;
  for (const std::string_view character : split_characters(text.text())) {
    const bool breaks = !strip(character).empty()
                            ? std::string_view("-({[<").find(character) != std::string_view::npos
                            : true;
    if (breaks == in_word) {
      flush();
      in_word = !in_word;
    }
    word += character;
  }
  flush();
  return Value::string(std::move(result));
}

FILTER(filter_string) {
  return soft_string(interpreter, input);
}

FILTER(filter_escape) {
  if (input.markup() && name != "forceescape") return input;
  const std::string text = to_text(input, interpreter.budget());
  interpreter.budget().take(text.size() * 5);
  return Value::string(escape_html(text), true);
}

FILTER(filter_safe) {
  return Value::string(to_text(input, interpreter.budget()), true);
}

FILTER(filter_indent) {
  const Arguments arguments(name, call, {"width", "first", "blank"});
  if (input.is_undefined()) fail_undefined(input);
  if (!input.is_string()) {
    type_error("unsupported operand type(s) for +=: '" + type_name(input) + "' and 'str'");
  }
  std::string indentation = "    ";
  if (arguments.at(0).is_string()) {
    indentation = arguments.text(0);
  } else if (arguments.has(0)) {
    const int64_t width = std::max<int64_t>(0, arguments.integer(0, 4));
    interpreter.budget().take(static_cast<size_t>(width));
    indentation.assign(static_cast<size_t>(width), ' ');
  }
  const std::string text = input.text() + "\n";
  std::string result;
  bool begin = true;
  for (const std::string_view line : split_lines(text, false)) {
    interpreter.budget().take(indentation.size() + line.size());
    if (!begin) result += "\n";
    if (begin ? arguments.boolean(1, false) : arguments.boolean(2, false) || !line.empty()) {
      result += indentation;
    }
    begin = false;
    result += line;
  }
  return Value::string(std::move(result), input.markup());
}

FILTER(filter_truncate) {
  const Arguments arguments(name, call, {"length", "killwords", "end", "leeway"});
  const auto size = length(input);
  if (!size) type_error("object of type '" + type_name(input) + "' has no len()");
  const int64_t limit = arguments.integer(0, 255);
  const std::string end = arguments.has(2) ? arguments.text(2) : "...";
  const int64_t leeway = arguments.at(3).is_none() ? 5 : arguments.integer(3, 5);
  const int64_t kept = limit - count_characters(end);
  if (kept < 0 || leeway < 0) {
    throw TemplateError("AssertionError",
                        fmt::format("expected length >= {}, got {}", count_characters(end), limit));
  }
  if (*size <= limit + leeway) return input;
  if (!input.is_string()) type_error("a " + type_name(input) + " cannot be truncated");
  interpreter.budget().take(input.text().size());
  const std::string_view text = input.text();
  std::string_view part = text.substr(0, character_offset(text, kept));
  if (!arguments.boolean(1, false)) {
    const size_t space = part.rfind(' ');
    if (space != std::string_view::npos) part = part.substr(0, space);
  }
  return Value::string(std::string(part) + end, input.markup());
}

FILTER(filter_wordcount) {
  const Value text = soft_string(interpreter, input);
  int64_t words = 0;
  bool inside = false;
  for (const std::string_view character : split_characters(text.text())) {
    const bool word = is_all(character, CharacterClass::alphanumeric) || character == "_";
    words += word && !inside;
    inside = word;
  }
  return Value::integer(words);
}

std::string percent_encoded(const std::string& text, bool query) {
  std::string result;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("_.-~").find(c) != std::string_view::npos;
    if (plain || (c == '/' && !query)) {
      result += c;
    } else if (c == ' ' && query) {
      result += '+';
    } else {
      result += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    }
  }
  return result;
}

FILTER(filter_urlencode) {
  Budget& budget = interpreter.budget();
  if (input.is_string() || !iterable(input)) {
    const std::string text = to_text(input, budget);
    budget.take(text.size() * 3);
    return Value::string(percent_encoded(text, false));
  }
  std::string result;
  const auto add = [&](const Value& key, const Value& value) {
    budget.step();
    pay_to_read(key, budget);
    pay_to_read(value, budget);
    if (!result.empty()) result += "&";
    result += percent_encoded(to_text(key, budget), true) + "=" +
              percent_encoded(to_text(value, budget), true);
  };
  if (input.is_dict()) {
    for (const auto& [key, value] : input.dict().entries()) add(key, value);
  } else {
    for (const Value& pair : collect(interpreter, input)) {
      const std::vector<Value> parts = collect(interpreter, pair);
      if (parts.size() != 2) throw TemplateError("ValueError", "too many values to unpack");
      add(parts[0], parts[1]);
    }
  }
  budget.take(result.size());
  return Value::string(std::move(result));
}

FILTER(filter_format) {
  const Value text = soft_string(interpreter, input);
  if (!call.positional.empty() && !call.keywords.empty()) {
    throw TemplateError("FilterArgumentError",
                        "can't handle positional and keyword arguments at the same time");
  }
  Value arguments = Value::tuple(call.positional);
  if (!call.keywords.empty()) {
    auto dict = std::make_shared<DictObject>();
    for (const auto& [key, value] : call.keywords) dict->set(key, value);
    arguments = Value::object(Type::dict, std::move(dict));
  }
  return Value::string(percent_format(interpreter, text.text(), arguments), text.markup());
}

FILTER(filter_tojson) {
  const Arguments arguments(name, call, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonOptions options;
  options.ensure_ascii = arguments.boolean(0, false);
  options.sort_keys = arguments.boolean(3, false);
  const Value& indent = arguments.at(1);
  if (indent.is_string()) {
    options.indent = indent.text();
  } else if (!indent.is_none()) {
    const int64_t width = std::max<int64_t>(0, arguments.integer(1, 0));
    interpreter.budget().take(static_cast<size_t>(width));
    options.indent = std::string(static_cast<size_t>(width), ' ');
  }
  if (options.indent) options.item_separator = ",";
  if (!arguments.at(2).is_none()) {
    const std::vector<Value> separators = collect(interpreter, arguments.at(2));
    if (separators.size() != 2 || !separators[0].is_string() || !separators[1].is_string()) {
      throw TemplateError("ValueError", "separators must be two strings");
    }
    options.item_separator = separators[0].text();
    options.key_separator = separators[1].text();
  }
  return Value::string(json_dumps(input, options, interpreter.budget()));
}

FILTER(filter_default) {
  const Arguments arguments(name, call, {"default_value", "boolean"});
  const bool missing = input.is_undefined() || (arguments.boolean(1, false) && !truth(input));
  if (!missing) return input;
  return arguments.has(0) ? arguments.at(0) : Value::string("");
}

FILTER(filter_attr) {
  const Arguments arguments(name, call, {"name"}, 1);
  const std::string& attribute = arguments.text(0);
  if (input.is_undefined()) fail_undefined(input);
  if (input.is(Type::space)) return get_attribute(interpreter, input, attribute);
  if (auto method = find_method(input, attribute)) return *method;
  return Value::undefined(quoted(type_name(input) + " object") + " has no attribute " +
                          quoted(attribute));
}

FILTER(filter_abs) {
  if (input.is_undefined()) type_error("bad operand type for abs(): 'Undefined'");
  if (input.is_integral()) {
    return input.as_integer() < 0 ? negative(input) : Value::integer(input.as_integer());
  }
  if (input.is(Type::real)) return Value::real(std::abs(input.as_real()));
  type_error("bad operand type for abs(): '" + type_name(input) + "'");
}

FILTER(filter_int) {
  const Arguments arguments(name, call, {"default", "base"});
  if (input.is_undefined()) fail_undefined(input);
  const Value fallback = arguments.has(0) ? arguments.at(0) : Value::integer(0);
  if (input.is_integral()) return Value::integer(input.as_integer());
  double real = 0;
  if (input.is_string()) {
    if (const auto value = parse_integer(input.text(), arguments.integer(1, 10))) {
      return Value::integer(*value);
    }
    const auto parsed = parse_real(input.text());
    if (!parsed || std::isinf(*parsed)) return fallback;
    real = *parsed;
  } else if (input.is(Type::real)) {
    real = input.as_real();
    if (std::isinf(real)) {
      throw TemplateError("OverflowError", "cannot convert float infinity to integer");
    }
  } else {
    return fallback;
  }
  if (std::isnan(real)) return fallback;
  if (std::abs(real) >= 9.2e18) {
    throw TemplateError("OverflowError", "integer needs more than 64 bits");
  }
  return Value::integer(static_cast<int64_t>(real));
}

FILTER(filter_float) {
  const Arguments arguments(name, call, {"default"});
  if (input.is_undefined()) fail_undefined(input);
  if (input.is_number()) return Value::real(input.as_real());
  if (input.is_string()) {
    if (const auto value = parse_real(input.text())) return Value::real(*value);
  }
  return arguments.has(0) ? arguments.at(0) : Value::real(0);
}

FILTER(filter_round) {
  const Arguments arguments(name, call, {"precision", "method"});
  const std::string method = arguments.has(1) ? arguments.text(1) : "common";
  if (method != "common" && method != "ceil" && method != "floor") {
    throw TemplateError("FilterArgumentError", "method must be common, ceil or floor");
  }
  if (input.is_undefined()) type_error("type Undefined doesn't define __round__ method");
  if (!input.is_number()) {
    type_error("type " + type_name(input) + " doesn't define __round__ method");
  }
  const int64_t precision = std::clamp<int64_t>(arguments.integer(0, 0), -400, 400);
  if (method == "common") return rounded(input, precision);
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = input.as_real() * scale;
  // Python makes an integer of it: there is no infinite one, and no negative zero.
  if (std::isnan(scaled)) {
    throw TemplateError("ValueError", "cannot convert float NaN to integer");
  }
  if (std::isinf(scaled)) {
    throw TemplateError("OverflowError", "cannot convert float infinity to integer");
  }
  const double whole = (method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) + 0.0;
  return Value::real(whole / scale);
}

// float(input)
double python_float(const Value& input) {
  if (input.is_number()) return input.as_real();
  if (input.is_undefined()) fail_undefined(input);
  if (!input.is_string()) {
    type_error("float() argument must be a string or a real number, not " +
               quoted(type_name(input)));
  }
  const std::optional<double> number = parse_real(input.text());
  if (!number) {
    throw TemplateError("ValueError", "could not convert string to float: " + quoted(input.text()));
  }
  return *number;
}

FILTER(filter_filesizeformat) {
  const Arguments arguments(name, call, {"binary"});
  const bool binary = arguments.boolean(0, false);
  const double bytes = python_float(input), base = binary ? 1024 : 1000;
  if (bytes == 1) return Value::string("1 Byte");
  if (bytes < base) return Value::string(fmt::format("{:.0f} Bytes", std::trunc(bytes) + 0.0));
  double unit = base * base;
  const std::string_view prefixes = binary ? "KMGTPEZY" : "kMGTPEZY";
  size_t i = 0;
  for (; i + 1 < prefixes.size() && bytes >= unit; ++i) unit *= base;
  return Value::string(
      fmt::format("{:.1f} {}{}", base * bytes / unit, prefixes[i], binary ? "iB" : "B"));
}

constexpr Filter kFilters[] = {
    {"abs", filter_abs},
    {"attr", filter_attr},
    {"capitalize", filter_method},
    {"center", filter_center},
    {"d", filter_default},
    {"default", filter_default},
    {"e", filter_escape},
    {"escape", filter_escape},
    {"filesizeformat", filter_filesizeformat},
    {"float", filter_float},
    {"forceescape", filter_escape},
    {"format", filter_format},
    {"indent", filter_indent},
    {"int", filter_int},
    {"lower", filter_method},
    {"replace", filter_replace},
    {"round", filter_round},
    {"safe", filter_safe},
    {"string", filter_string},
    {"title", filter_title},
    {"tojson", filter_tojson},
    {"trim", filter_trim},
    {"truncate", filter_truncate},
    {"upper", filter_method},
    {"urlencode", filter_urlencode},
    {"wordcount", filter_wordcount},
};

}  // namespace

const Filter* find_text_filter(std::string_view name) {
  const auto* at = std::find_if(std::begin(kFilters), std::end(kFilters),
                                [name](const Filter& filter) { return filter.name == name; });
  return at == std::end(kFilters) ? nullptr : at;
}

const Filter* find_filter(std::string_view name) {
  for (const auto find : {find_text_filter, find_sequence_filter, find_lazy_filter}) {
    if (const Filter* filter = find(name)) return filter;
  }
  return nullptr;
}

}  // namespace engine::jinja
