#include "tokenizer/chat/jinja/value.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>

#include "tokenizer/chat/jinja/text.h"

namespace engine::jinja {
namespace {

constexpr int kMaxHeight = 400;
constexpr size_t kSmallDict = 12;

Value make_sequence(Type type, std::vector<Value> items) {
  auto object = std::make_shared<SequenceObject>();
  for (const Value& item : items) hold(*object, item);
  object->items = std::move(items);
  return Value::object(type, std::move(object));
}

bool equal_sequences(const std::vector<Value>& a, const std::vector<Value>& b, Budget& budget) {
  return a.size() == b.size() &&
         std::equal(a.begin(), a.end(), b.begin(),
                    [&](const Value& x, const Value& y) { return equal(x, y, budget); });
}

bool equal_dicts(const DictObject& a, const DictObject& b, Budget& budget) {
  if (a.size() != b.size()) return false;
  return std::all_of(a.entries().begin(), a.entries().end(), [&](const DictObject::Entry& entry) {
    const Value* other = b.find(entry.first);
    return other && equal(entry.second, *other, budget);
  });
}

// Integers and reals compare exactly, not after rounding.
int order_numbers(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) {
    return (a.as_integer() > b.as_integer()) - (a.as_integer() < b.as_integer());
  }
  if (a.is(Type::real) && b.is(Type::real)) {
    return (a.as_real() > b.as_real()) - (a.as_real() < b.as_real());
  }
  if (a.is(Type::real)) return -order_numbers(b, a);
  const double real = b.as_real();
  if (real >= 9223372036854775808.0) return -1;
  if (real < -9223372036854775808.0) return 1;
  const double whole = std::trunc(real);
  const auto integer = static_cast<int64_t>(whole);
  if (a.as_integer() != integer) return a.as_integer() < integer ? -1 : 1;
  return (whole > real) - (whole < real);
}

bool has_nan(const Value& a, const Value& b) {
  return (a.is(Type::real) && std::isnan(a.as_real())) ||
         (b.is(Type::real) && std::isnan(b.as_real()));
}

uint64_t mix(uint64_t hash) {
  hash ^= hash >> 31;
  hash *= 0x9E3779B97F4A7C15u;
  return hash ^ (hash >> 29);
}

// Walks a vector that something else keeps alive.
struct VectorIterator final : IteratorObject {
  VectorIterator(std::shared_ptr<Object> kept, const std::vector<Value>& items)
      : keep(std::move(kept)), vector(items) {}
  std::optional<Value> next(Interpreter&) override {
    if (at == vector.size()) return std::nullopt;
    return vector[at++];
  }
  std::shared_ptr<Object> keep;
  const std::vector<Value>& vector;
  size_t at = 0;
};

struct DictIterator final : IteratorObject {
  DictIterator(std::shared_ptr<Object> object, ViewKind view_kind)
      : keep(std::move(object)), kind(view_kind) {}
  std::optional<Value> next(Interpreter&) override {
    const auto& entries = static_cast<DictObject&>(*keep).entries();
    if (at == entries.size()) return std::nullopt;
    const DictObject::Entry& entry = entries[at++];
    switch (kind) {
      case ViewKind::keys:
        return entry.first;
      case ViewKind::values:
        return entry.second;
      case ViewKind::items:
        return Value::tuple({entry.first, entry.second});
    }
    return std::nullopt;
  }
  std::shared_ptr<Object> keep;
  ViewKind kind;
  size_t at = 0;
};

// Characters of markup are plain strings, as in Python; items by index are markup.
struct StringIterator final : IteratorObject {
  explicit StringIterator(std::shared_ptr<Object> object) : keep(std::move(object)) {}
  std::optional<Value> next(Interpreter&) override {
    const auto& string = static_cast<StringObject&>(*keep);
    if (at == string.text.size()) return std::nullopt;
    size_t end = at + 1;
    while (end < string.text.size() &&
           (static_cast<unsigned char>(string.text[end]) & 0xC0) == 0x80) {
      ++end;
    }
    Value character = Value::string(string.text.substr(at, end - at));
    at = end;
    return character;
  }
  std::shared_ptr<Object> keep;
  size_t at = 0;
};

struct RangeIterator final : IteratorObject {
  explicit RangeIterator(const RangeObject& object) : range(object) {}
  std::optional<Value> next(Interpreter&) override {
    if (at == range.count) return std::nullopt;
    return Value::integer(range.start + range.step * at++);
  }
  RangeObject range;
  int64_t at = 0;
};

}  // namespace

StringObject::StringObject(std::string content, bool is_markup)
    : text(std::move(content)), markup(is_markup), ascii(is_ascii(text)) {}

Value::Value() : type_(Type::none) {
  scalar_.integer = 0;
}

Value Value::boolean(bool value) {
  Value result(Type::boolean, nullptr);
  result.scalar_.integer = value;
  return result;
}

Value Value::integer(int64_t value) {
  Value result(Type::integer, nullptr);
  result.scalar_.integer = value;
  return result;
}

Value Value::real(double value) {
  Value result(Type::real, nullptr);
  result.scalar_.real = value;
  return result;
}

Value Value::string(std::string text, bool markup) {
  return Value(Type::string, std::make_shared<StringObject>(std::move(text), markup));
}

Value Value::list(std::vector<Value> items) {
  return make_sequence(Type::list, std::move(items));
}

Value Value::tuple(std::vector<Value> items) {
  return make_sequence(Type::tuple, std::move(items));
}

Value Value::undefined(std::string message, const char* type) {
  auto object = std::make_shared<UndefinedObject>();
  object->message = std::move(message);
  object->type = type;
  return Value(Type::undefined, std::move(object));
}

const DictObject& Value::dict() const {
  return get<DictObject>();
}

const Value* DictObject::find_hashed(uint64_t hash, const Value& key) const {
  Limits limits;
  Budget budget(limits);  // keys are scalars or tuples of them
  const auto [first, last] = index_.equal_range(hash);
  for (auto at = first; at != last; ++at) {
    if (equal(entries_[at->second].first, key, budget)) return &entries_[at->second].second;
  }
  return nullptr;
}

const Value* DictObject::find(const Value& key) const {
  if (key.is_string()) return find(key.text());
  const uint64_t hash = hash_value(key);
  if (!index_.empty()) return find_hashed(hash, key);
  Limits limits;
  Budget budget(limits);
  for (const Entry& entry : entries_) {
    if (!entry.first.is_string() && equal(entry.first, key, budget)) return &entry.second;
  }
  return nullptr;
}

const Value* DictObject::find(std::string_view key) const {
  if (index_.empty()) {
    for (const Entry& entry : entries_) {
      if (entry.first.is_string() && entry.first.text() == key) return &entry.second;
    }
    return nullptr;
  }
  const auto [first, last] = index_.equal_range(std::hash<std::string_view>()(key));
  for (auto at = first; at != last; ++at) {
    const Entry& entry = entries_[at->second];
    if (entry.first.is_string() && entry.first.text() == key) return &entry.second;
  }
  return nullptr;
}

void DictObject::set(Value key, Value value) {
  hold(*this, key);
  hold(*this, value);
  if (const Value* present = find(key)) {
    const_cast<Value&>(*present) = std::move(value);  // one of our own entries
    return;
  }
  const uint64_t hash = hash_value(key);
  entries_.emplace_back(std::move(key), std::move(value));
  if (entries_.size() == kSmallDict) {
    for (size_t i = 0; i + 1 < entries_.size(); ++i) {
      index_.emplace(hash_value(entries_[i].first), static_cast<uint32_t>(i));
    }
  }
  if (entries_.size() >= kSmallDict) {
    index_.emplace(hash, static_cast<uint32_t>(entries_.size() - 1));
  }
}

void DictObject::clear() {
  entries_.clear();
  index_.clear();
}

void hold(Object& holder, const Value& member) {
  const bool nested = member.shared() && !member.is(Type::space);
  holder.height = std::max(holder.height, nested ? member.shared()->height + 1 : 1);
  if (holder.height > kMaxHeight) {
    throw TemplateError("LimitError", "values are nested too deep");
  }
}

std::string type_name(const Value& value) {
  switch (value.type()) {
    case Type::undefined:
      return "Undefined";
    case Type::none:
      return "NoneType";
    case Type::boolean:
      return "bool";
    case Type::integer:
      return "int";
    case Type::real:
      return "float";
    case Type::string:
      return value.markup() ? "Markup" : "str";
    case Type::list:
      return "list";
    case Type::tuple:
      return "tuple";
    case Type::dict:
      return "dict";
    case Type::view:
      switch (value.get<ViewObject>().kind) {
        case ViewKind::keys:
          return "dict_keys";
        case ViewKind::values:
          return "dict_values";
        case ViewKind::items:
          return "dict_items";
      }
      return "";
    case Type::range:
      return "range";
    case Type::iterator:
      return value.get<IteratorObject>().name;
    case Type::space:
      return "TemplateNamespace";
    case Type::callable:
      return "function";
    case Type::loop:
      return "LoopContext";
    case Type::cycler:
      return "Cycler";
  }
  return "";
}

void type_error(std::string message) {
  throw TemplateError("TypeError", std::move(message));
}

void fail_undefined(const Value& value) {
  const auto& object = value.get<UndefinedObject>();
  throw TemplateError(object.type, object.message);
}

bool truth(const Value& value) {
  switch (value.type()) {
    case Type::undefined:
    case Type::none:
      return false;
    case Type::boolean:
    case Type::integer:
      return value.as_integer() != 0;
    case Type::real:
      return value.as_real() != 0;
    case Type::string:
      return !value.text().empty();
    case Type::list:
    case Type::tuple:
    case Type::dict:
    case Type::view:
    case Type::range:
      return *length(value) != 0;
    default:
      return true;
  }
}

std::optional<int64_t> length(const Value& value) {
  switch (value.type()) {
    case Type::undefined:
      return 0;
    case Type::string: {
      const StringObject& string = value.string_object();
      return string.ascii ? static_cast<int64_t>(string.text.size())
                          : count_characters(string.text);
    }
    case Type::list:
    case Type::tuple:
      return static_cast<int64_t>(value.items().size());
    case Type::dict:
      return static_cast<int64_t>(value.dict().size());
    case Type::view:
      return static_cast<int64_t>(value.get<ViewObject>().dict.dict().size());
    case Type::range:
      return value.get<RangeObject>().count;
    default:
      return std::nullopt;
  }
}

bool equal(const Value& a, const Value& b, Budget& budget) {
  budget.step();
  if (a.is_number() && b.is_number()) return !has_nan(a, b) && order_numbers(a, b) == 0;
  if (a.type() != b.type()) return false;
  switch (a.type()) {
    case Type::undefined:
    case Type::none:
      return true;
    case Type::string:
      return a.text() == b.text();
    case Type::list:
    case Type::tuple:
      return a.shared() == b.shared() || equal_sequences(a.items(), b.items(), budget);
    case Type::dict:
      return a.shared() == b.shared() || equal_dicts(a.dict(), b.dict(), budget);
    case Type::range: {
      const auto &x = a.get<RangeObject>(), &y = b.get<RangeObject>();
      if (x.count != y.count) return false;
      return x.count == 0 || (x.start == y.start && (x.count == 1 || x.step == y.step));
    }
    default:
      return a.shared() == b.shared();
  }
}

int order(const Value& a, const Value& b, const char* op, Budget& budget) {
  budget.step();
  if (a.is_undefined()) fail_undefined(a);
  if (b.is_undefined()) fail_undefined(b);
  if (a.is_number() && b.is_number()) return order_numbers(a, b);
  if (a.is_string() && b.is_string()) {
    // Bytes of UTF-8 are in the order of code points.
    const int result = a.text().compare(b.text());
    return (result > 0) - (result < 0);
  }
  if (a.type() == b.type() && a.is_sequence()) {
    const auto &x = a.items(), &y = b.items();
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
      if (!equal(x[i], y[i], budget)) return order(x[i], y[i], op, budget);
    }
    return (x.size() > y.size()) - (x.size() < y.size());
  }
  type_error("'" + std::string(op) + "' not supported between instances of '" + type_name(a) +
             "' and '" + type_name(b) + "'");
}

uint64_t hash_value(const Value& value) {
  switch (value.type()) {
    case Type::none:
      return 1;
    case Type::boolean:
    case Type::integer:
      return mix(static_cast<uint64_t>(value.as_integer()));
    case Type::real: {
      const double real = value.as_real();
      if (real == std::trunc(real) && std::abs(real) < 9e18) {
        return mix(static_cast<uint64_t>(static_cast<int64_t>(real)));
      }
      return mix(std::bit_cast<uint64_t>(real));
    }
    case Type::string:
      return std::hash<std::string_view>()(value.text());
    case Type::tuple: {
      uint64_t hash = 7;
      for (const Value& item : value.items()) hash = mix(hash * 31 + hash_value(item));
      return hash;
    }
    case Type::list:
    case Type::dict:
    case Type::view:
      type_error("unhashable type: '" + type_name(value) + "'");
    case Type::undefined:
      return 3;
    default:
      return mix(reinterpret_cast<uintptr_t>(value.shared().get()));
  }
}

bool iterable(const Value& value) {
  switch (value.type()) {
    case Type::undefined:
    case Type::string:
    case Type::list:
    case Type::tuple:
    case Type::dict:
    case Type::view:
    case Type::range:
    case Type::iterator:
      return true;
    default:
      return false;
  }
}

std::shared_ptr<IteratorObject> iterate(const Value& value) {
  static const std::vector<Value> kNothing;
  switch (value.type()) {
    case Type::undefined:
      return std::make_shared<VectorIterator>(nullptr, kNothing);
    case Type::string:
      return std::make_shared<StringIterator>(value.shared());
    case Type::list:
    case Type::tuple:
      return std::make_shared<VectorIterator>(value.shared(), value.items());
    case Type::dict:
      return std::make_shared<DictIterator>(value.shared(), ViewKind::keys);
    case Type::view: {
      const auto& view = value.get<ViewObject>();
      return std::make_shared<DictIterator>(view.dict.shared(), view.kind);
    }
    case Type::range:
      return std::make_shared<RangeIterator>(value.get<RangeObject>());
    case Type::iterator:
      return std::static_pointer_cast<IteratorObject>(value.shared());
    default:
      type_error("'" + type_name(value) + "' object is not iterable");
  }
}

}  // namespace engine::jinja
