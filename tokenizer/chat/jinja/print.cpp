#include "tokenizer/chat/jinja/print.h"

#include <fmt/format.h>
#include <utf8proc.h>

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

}  // namespace engine::jinja
