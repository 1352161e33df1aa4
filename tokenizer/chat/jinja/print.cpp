#include "tokenizer/chat/jinja/print.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "tokenizer/chat/jinja/loop.h"
#include "tokenizer/unicode.h"

namespace engine::jinja {
namespace {

bool printable(char32_t c) {
  if (c < 0x7F) return c >= 0x20;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

class Printer {
 public:
  explicit Printer(Budget& budget) : budget_(budget) {}

  void add(const Value& value) {
    const DepthGuard guard(budget_);
    const size_t before = out.size();
    bool container = true;  // its members have paid
    switch (value.type()) {
      case Type::undefined:
        container = false;
        out += "Undefined";
        break;
      case Type::string:
        container = false;
        if (value.markup()) {
          out += "Markup(" + quoted(value.text()) + ")";
        } else {
          out += quoted(value.text());
        }
        break;
      case Type::list:
        add_items("[", value.items(), "]");
        break;
      case Type::tuple:
        add_items("(", value.items(), value.items().size() == 1 ? ",)" : ")");
        break;
      case Type::dict:
        add_dict(value.dict());
        break;
      case Type::view:
        add_view(value.get<ViewObject>());
        break;
      case Type::space:
        out += "<Namespace ";
        add_dict(value.get<SpaceObject>().attributes);
        out += ">";
        break;
      default:
        container = false;
        add_plain(value);
    }
    if (!container) budget_.take(out.size() - before);
  }

  std::string out;

 private:
  void add_plain(const Value& value) {
    switch (value.type()) {
      case Type::none:
        out += "None";
        break;
      case Type::boolean:
        out += value.as_boolean() ? "True" : "False";
        break;
      case Type::integer:
        out += std::to_string(value.as_integer());
        break;
      case Type::real:
        out += real_text(value.as_real());
        break;
      case Type::range: {
        const auto& range = value.get<RangeObject>();
        out += fmt::format("range({}, {}", range.start, range.stop);
        out += range.step == 1 ? ")" : fmt::format(", {})", range.step);
        break;
      }
      case Type::callable:
        out += value.get<Callable>().name;
        break;
      case Type::loop: {
        const auto& loop = value.get<LoopObject>();
        out += fmt::format("<LoopContext {}/?>", loop.index0 + 1);
        break;
      }
      default:
        out += "<" + type_name(value) + " object>";
    }
  }

  void add_items(const char* open, const std::vector<Value>& items, const char* close) {
    out += open;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out += ", ";
      add(items[i]);
    }
    out += close;
  }

  void add_dict(const DictObject& dict) {
    out += "{";
    bool first = true;
    for (const auto& [key, value] : dict.entries()) {
      if (!first) out += ", ";
      first = false;
      add(key);
      out += ": ";
      add(value);
    }
    out += "}";
  }

  void add_view(const ViewObject& view) {
    std::vector<Value> items;
    for (const auto& [key, value] : view.dict.dict().entries()) {
      items.push_back(view.kind == ViewKind::keys     ? key
                      : view.kind == ViewKind::values ? value
                                                      : Value::tuple({key, value}));
    }
    const char* name = view.kind == ViewKind::keys     ? "dict_keys(["
                       : view.kind == ViewKind::values ? "dict_values(["
                                                       : "dict_items([";
    add_items(name, items, "])");
  }

  Budget& budget_;
};

class JsonWriter {
 public:
  JsonWriter(const JsonOptions& options, Budget& budget) : options_(options), budget_(budget) {}

  void add(const Value& value) {
    const DepthGuard guard(budget_);
    const size_t before = out.size();
    switch (value.type()) {
      case Type::none:
        out += "null";
        break;
      case Type::boolean:
        out += value.as_boolean() ? "true" : "false";
        break;
      case Type::integer:
        out += std::to_string(value.as_integer());
        break;
      case Type::real:
        out += json_real(value.as_real());
        break;
      case Type::string:
        add_string(value.text());
        break;
      case Type::list:
      case Type::tuple:
        return add_list(value.items());  // members have paid
      case Type::dict:
        return add_dict(value.dict());
      default:
        type_error("Object of type " + type_name(value) + " is not JSON serializable");
    }
    budget_.take(out.size() - before);
  }

  std::string out;

 private:
  static std::string json_real(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
    return real_text(value);
  }

  void add_string(std::string_view text) {
    out += '"';
    for (size_t at = 0; at < text.size();) {
      const tokenizer::CodePoint point = tokenizer::decode_code_point(text, at);
      const char32_t c = point.value;
      switch (c) {
        case '"':
          out += "\\\"";
          break;
        case '\\':
          out += "\\\\";
          break;
        case '\n':
          out += "\\n";
          break;
        case '\r':
          out += "\\r";
          break;
        case '\t':
          out += "\\t";
          break;
        case '\b':
          out += "\\b";
          break;
        case '\f':
          out += "\\f";
          break;
        default:
          if (c < 0x20 || (options_.ensure_ascii && c > 0x7E)) {
            add_escape(c);
          } else {
            out += text.substr(at, point.length);
          }
      }
      at += point.length;
    }
    out += '"';
  }

  void add_escape(char32_t c) {
    if (c > 0xFFFF) {
      const char32_t rest = c - 0x10000;
      out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + static_cast<uint32_t>(rest >> 10),
                         0xDC00 + static_cast<uint32_t>(rest & 0x3FF));
    } else {
      out += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
    }
  }

  void new_line() {
    out += '\n';
    budget_.take(options_.indent->size() * static_cast<size_t>(level_));
    for (int i = 0; i < level_; ++i) out += *options_.indent;
  }

  // Around and between the members of a list or an object.
  template <class Members, class Add>
  void add_members(char open, const Members& members, char close, const Add& add_member) {
    out += open;
    if (members.empty()) {
      out += close;
      return;
    }
    ++level_;
    bool first = true;
    for (const auto& member : members) {
      if (!first) out += options_.item_separator;
      first = false;
      if (options_.indent) new_line();
      add_member(member);
    }
    --level_;
    if (options_.indent) new_line();
    out += close;
  }

  void add_list(const std::vector<Value>& items) {
    add_members('[', items, ']', [this](const Value& item) { add(item); });
  }

  void add_dict(const DictObject& dict) {
    std::vector<const DictObject::Entry*> entries;
    for (const auto& entry : dict.entries()) entries.push_back(&entry);
    if (options_.sort_keys) {
      std::stable_sort(entries.begin(), entries.end(), [this](const auto* a, const auto* b) {
        return order(a->first, b->first, "<", budget_) < 0;
      });
    }
    add_members('{', entries, '}', [this](const DictObject::Entry* entry) {
      add_key(entry->first);
      out += options_.key_separator;
      add(entry->second);
    });
  }

  void add_key(const Value& key) {
    switch (key.type()) {
      case Type::string:
        add_string(key.text());
        break;
      case Type::integer:
        add_string(std::to_string(key.as_integer()));
        break;
      case Type::real:
        add_string(json_real(key.as_real()));
        break;
      case Type::boolean:
        add_string(key.as_boolean() ? "true" : "false");
        break;
      case Type::none:
        add_string("null");
        break;
      default:
        type_error("keys must be str, int, float, bool or None, not " + type_name(key));
    }
  }

  const JsonOptions& options_;
  Budget& budget_;
  int level_ = 0;
};

}  // namespace

std::string real_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[40];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  const std::string_view text(buffer, static_cast<size_t>(end.ptr - buffer));
  const size_t mark = text.find('e');
  int exponent = 0;
  const char* digits_begin = text.data() + mark + 1;
  if (*digits_begin == '+') ++digits_begin;
  std::from_chars(digits_begin, end.ptr, exponent);
  std::string sign, digits;
  for (const char c : text.substr(0, mark)) {
    if (c == '-') sign = "-";
    if (c >= '0' && c <= '9') digits += c;
  }
  if (exponent < -4 || exponent >= 16) {
    std::string result = sign + digits.substr(0, 1);
    if (digits.size() > 1) result += "." + digits.substr(1);
    return result + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) {
    return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  }
  const size_t whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) return sign + digits + std::string(whole - digits.size(), '0') + ".0";
  return sign + digits.substr(0, whole) + "." + digits.substr(whole);
}

std::string quoted(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const bool has_double = text.find('"') != std::string_view::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  std::string result(1, quote);
  for (size_t at = 0; at < text.size();) {
    const tokenizer::CodePoint point = tokenizer::decode_code_point(text, at);
    const auto c = static_cast<uint32_t>(point.value);
    if (c == static_cast<uint32_t>(quote) || c == '\\') {
      result += '\\';
      result += static_cast<char>(c);
    } else if (c == '\n') {
      result += "\\n";
    } else if (c == '\r') {
      result += "\\r";
    } else if (c == '\t') {
      result += "\\t";
    } else if (printable(point.value)) {
      result += text.substr(at, point.length);
    } else {
      result += c < 0x100     ? fmt::format("\\x{:02x}", c)
                : c < 0x10000 ? fmt::format("\\u{:04x}", c)
                              : fmt::format("\\U{:08x}", c);
    }
    at += point.length;
  }
  return result + quote;
}

std::string repr(const Value& value, Budget& budget) {
  Printer printer(budget);
  printer.add(value);
  return std::move(printer.out);
}

void append_text(const Value& value, Budget& budget, std::string* out) {
  if (value.is_string()) {
    out->append(value.text());
  } else if (!value.is_undefined()) {
    out->append(repr(value, budget));
  }
}

std::string to_text(const Value& value, Budget& budget) {
  std::string text;
  append_text(value, budget, &text);
  return text;
}

std::string json_dumps(const Value& value, const JsonOptions& options, Budget& budget) {
  JsonWriter writer(options, budget);
  writer.add(value);
  return std::move(writer.out);
}

}  // namespace engine::jinja
