// Methods of str.
#include <algorithm>

#include "tokenizer/chat/jinja/arguments.h"
#include "tokenizer/chat/jinja/method_table.h"
#include "tokenizer/chat/jinja/operators.h"
#include "tokenizer/chat/jinja/print.h"
#include "tokenizer/chat/jinja/text.h"

namespace engine::jinja {
namespace {

Value make_text(Interpreter& interpreter, const Value& self, std::string text) {
  interpreter.budget().take(text.size());
  return Value::string(std::move(text), self.markup());
}

Value make_parts(Interpreter& interpreter, const Value& self,
                 const std::vector<std::string_view>& parts, Type type = Type::list) {
  std::vector<Value> items;
  interpreter.budget().take(self.text().size() + parts.size() * (sizeof(Value) + 64));
  for (const std::string_view part : parts) {
    items.push_back(Value::string(std::string(part), self.markup()));
  }
  return type == Type::list ? Value::list(std::move(items)) : Value::tuple(std::move(items));
}

template <std::string (*Function)(std::string_view)>
METHOD(string_mapped) {
  const Arguments none(name, call, {});
  return make_text(interpreter, self, Function(self.text()));
}

template <std::string_view (*Function)(std::string_view, std::optional<std::string_view>)>
METHOD(string_stripped) {
  const Arguments arguments(name, call, {"chars"});
  return make_text(interpreter, self,
                   std::string(Function(self.text(), arguments.optional_text(0))));
}

template <CharacterClass What>
METHOD(string_is) {
  const Arguments none(name, call, {});
  return Value::boolean(is_all(self.text(), What));
}

template <std::vector<std::string_view> (*Function)(std::string_view,
                                                    std::optional<std::string_view>, int64_t)>
METHOD(string_split) {
  const Arguments arguments(name, call, {"sep", "maxsplit"});
  const auto separator = arguments.optional_text(0);
  if (separator && separator->empty()) throw TemplateError("ValueError", "empty separator");
  return make_parts(interpreter, self, Function(self.text(), separator, arguments.integer(1, -1)));
}

METHOD(string_splitlines) {
  const Arguments arguments(name, call, {"keepends"});
  return make_parts(interpreter, self, split_lines(self.text(), arguments.boolean(0, false)));
}

template <bool FromRight>
METHOD(string_partition) {
  const Arguments arguments(name, call, {"sep"}, 1);
  const std::string& separator = arguments.text(0);
  if (separator.empty()) throw TemplateError("ValueError", "empty separator");
  const std::string_view text = self.text();
  const size_t at = FromRight ? find_last_text(text, separator) : find_text(text, separator);
  std::vector<std::string_view> parts;
  if (at == std::string_view::npos) {
    parts = FromRight ? std::vector<std::string_view>{"", "", text}
                      : std::vector<std::string_view>{text, "", ""};
  } else {
    parts = {text.substr(0, at), separator, text.substr(at + separator.size())};
  }
  return make_parts(interpreter, self, parts, Type::tuple);
}

// The part of a string that [start, end) selects, and where it begins; nothing when start lies
// behind the end.
struct Window {
  std::string_view text;
  int64_t begin = 0;
};
std::optional<Window> window(const Value& self, const Arguments& arguments, size_t first) {
  const std::string_view text = self.text();
  const int64_t size = *length(self);
  const auto bound = [&](size_t i, int64_t fallback) {
    if (arguments.at(i).is_none()) return fallback;
    const int64_t at = arguments.integer(i, fallback);
    return at < 0 ? std::max<int64_t>(0, at + size) : at;
  };
  const int64_t begin = bound(first, 0), end = std::min(bound(first + 1, size), size);
  if (begin > end) return std::nullopt;
  const size_t from = character_offset(text, begin);
  return Window{text.substr(from, character_offset(text, end) - from), begin};
}

template <bool AtEnd>
METHOD(string_affix) {
  const Arguments arguments(name, call, {AtEnd ? "suffix" : "prefix", "start", "end"}, 1);
  const auto part = window(self, arguments, 1);
  const auto matches = [&](const Value& affix) {
    if (!affix.is_string()) {
      type_error(name + " first arg must be str or a tuple of str, not " + type_name(affix));
    }
    if (!part) return false;
    return AtEnd ? part->text.ends_with(affix.text()) : part->text.starts_with(affix.text());
  };
  const Value& affix = arguments.at(0);
  if (affix.is(Type::tuple)) {
    return Value::boolean(std::any_of(affix.items().begin(), affix.items().end(), matches));
  }
  return Value::boolean(matches(affix));
}

template <bool FromRight, bool Raises>
METHOD(string_find) {
  const Arguments arguments(name, call, {"sub", "start", "end"}, 1);
  const std::string& part = arguments.text(0);
  if (const auto found = window(self, arguments, 1)) {
    const size_t at = FromRight ? find_last_text(found->text, part) : find_text(found->text, part);
    if (at != std::string_view::npos) {
      return Value::integer(found->begin + count_characters(found->text.substr(0, at)));
    }
  }
  if (Raises) throw TemplateError("ValueError", "substring not found");
  return Value::integer(-1);
}

METHOD(string_count) {
  const Arguments arguments(name, call, {"sub", "start", "end"}, 1);
  const std::string& part = arguments.text(0);
  const auto found = window(self, arguments, 1);
  if (!found) return Value::integer(0);
  if (part.empty()) return Value::integer(count_characters(found->text) + 1);
  int64_t count = 0;
  for (size_t at = 0; (at = find_text(found->text, part, at)) != std::string_view::npos;
       at += part.size()) {
    ++count;
  }
  return Value::integer(count);
}

METHOD(string_replace) {
  const Arguments arguments(name, call, {"old", "new", "count"}, 2);
  const std::string &from = arguments.text(0), &to = arguments.text(1);
  const size_t most = from.empty() ? self.text().size() + 1 : self.text().size() / from.size();
  if (to.size() > from.size()) interpreter.budget().take(most * (to.size() - from.size()));
  return make_text(interpreter, self, replace_all(self.text(), from, to, arguments.integer(2, -1)));
}

METHOD(string_join) {
  const Arguments arguments(name, call, {"iterable"}, 1);
  std::string result;
  bool first = true;
  int64_t index = 0;
  for (const Value& item : collect(interpreter, arguments.at(0))) {
    if (!item.is_string() && !self.markup()) {
      type_error("sequence item " + std::to_string(index) + ": expected str instance, " +
                 type_name(item) + " found");
    }
    ++index;
    const std::string text = to_text(item, interpreter.budget());
    interpreter.budget().take(self.text().size() + text.size());
    if (!first) result += self.text();
    first = false;
    result += self.markup() && !item.markup() ? escape_html(text) : text;
  }
  return Value::string(std::move(result), self.markup());
}

template <Side TextSide>
METHOD(string_padded) {
  const Arguments arguments(name, call, {"width", "fillchar"}, 1);
  const std::string fill = arguments.has(1) ? arguments.text(1) : " ";
  if (count_characters(fill) != 1) {
    type_error("The fill character must be exactly one character long");
  }
  const int64_t width = arguments.integer(0, 0);
  interpreter.budget().take(width > 0 ? static_cast<size_t>(width) : 0);
  return make_text(interpreter, self, pad_to(self.text(), width, fill, TextSide));
}

METHOD(string_zfill) {
  const Arguments arguments(name, call, {"width"}, 1);
  const int64_t width = arguments.integer(0, 0);
  interpreter.budget().take(width > 0 ? static_cast<size_t>(width) : 0);
  return make_text(interpreter, self, zero_fill(self.text(), width));
}

template <bool AtEnd>
METHOD(string_remove_affix) {
  const Arguments arguments(name, call, {"affix"}, 1);
  std::string_view text = self.text();
  const std::string& affix = arguments.text(0);
  if (AtEnd ? text.ends_with(affix) : text.starts_with(affix)) {
    if (AtEnd) {
      text.remove_suffix(affix.size());
    } else {
      text.remove_prefix(affix.size());
    }
  }
  return make_text(interpreter, self, std::string(text));
}

METHOD(string_expandtabs) {
  const Arguments arguments(name, call, {"tabsize"});
  const int64_t size = arguments.integer(0, 8);
  std::string result;
  int64_t column = 0;
  for (const std::string_view character : split_characters(self.text())) {
    if (character == "\t") {
      const int64_t spaces = size > 0 ? size - column % size : 0;
      interpreter.budget().take(static_cast<size_t>(spaces));
      result.append(static_cast<size_t>(spaces), ' ');
      column += spaces;
    } else {
      result += character;
      column = character == "\n" || character == "\r" ? 0 : column + 1;
    }
  }
  return make_text(interpreter, self, std::move(result));
}

METHOD(string_format) {
  return make_text(interpreter, self, brace_format(interpreter, self.text(), call));
}

METHOD(string_format_map) {
  const Arguments arguments(name, call, {"mapping"}, 1);
  CallArguments spread;
  if (!arguments.at(0).is_dict()) type_error("format_map() argument must be a mapping");
  for (const auto& [key, value] : arguments.at(0).dict().entries()) {
    if (key.is_string()) spread.keywords.emplace_back(key.text(), value);
  }
  return make_text(interpreter, self, brace_format(interpreter, self.text(), spread));
}

constexpr NamedMethod kStringMethods[] = {
    {"capitalize", string_mapped<capitalize>},
    {"center", string_padded<Side::both>},
    {"count", string_count},
    {"endswith", string_affix<true>},
    {"expandtabs", string_expandtabs},
    {"find", string_find<false, false>},
    {"format", string_format},
    {"format_map", string_format_map},
    {"index", string_find<false, true>},
    {"isalnum", string_is<CharacterClass::alphanumeric>},
    {"isalpha", string_is<CharacterClass::alphabetic>},
    {"isascii", string_is<CharacterClass::ascii>},
    {"isdecimal", string_is<CharacterClass::decimal>},
    {"isdigit", string_is<CharacterClass::digit>},
    {"isidentifier", string_is<CharacterClass::identifier>},
    {"islower", string_is<CharacterClass::lower>},
    {"isnumeric", string_is<CharacterClass::numeric>},
    {"isspace", string_is<CharacterClass::space>},
    {"istitle", string_is<CharacterClass::title>},
    {"isupper", string_is<CharacterClass::upper>},
    {"join", string_join},
    {"ljust", string_padded<Side::left>},
    {"lower", string_mapped<to_lower>},
    {"lstrip", string_stripped<strip_left>},
    {"partition", string_partition<false>},
    {"removeprefix", string_remove_affix<false>},
    {"removesuffix", string_remove_affix<true>},
    {"replace", string_replace},
    {"rfind", string_find<true, false>},
    {"rindex", string_find<true, true>},
    {"rjust", string_padded<Side::right>},
    {"rpartition", string_partition<true>},
    {"rsplit", string_split<split_from_right>},
    {"rstrip", string_stripped<strip_right>},
    {"split", string_split<split>},
    {"splitlines", string_splitlines},
    {"startswith", string_affix<false>},
    {"strip", string_stripped<strip>},
    {"swapcase", string_mapped<swap_case>},
    {"title", string_mapped<title_case>},
    {"upper", string_mapped<to_upper>},
    {"zfill", string_zfill},
};

}  // namespace

std::span<const NamedMethod> string_methods() {
  return kStringMethods;
}

}  // namespace engine::jinja
