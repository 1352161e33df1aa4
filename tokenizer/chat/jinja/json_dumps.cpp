// json.dumps() of Python, for the filter tojson.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "tokenizer/chat/jinja/print.h"
#include "tokenizer/unicode.h"

namespace engine::jinja {
namespace {

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
      if (!first) {
        budget_.take(options_.item_separator.size());
        out += options_.item_separator;
      }
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
      pay_to_read(entry->first, budget_);
      budget_.take(options_.key_separator.size());
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

std::string json_dumps(const Value& value, const JsonOptions& options, Budget& budget) {
  JsonWriter writer(options, budget);
  writer.add(value);
  return std::move(writer.out);
}

}  // namespace engine::jinja
