#include "tokenizer/chat/jinja/value.h"

#include <algorithm>

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

const Value* DictObject::find_hashed(uint64_t hash, const Value& key, Budget& budget) const {
  const auto [first, last] = index_.equal_range(hash);
  for (auto at = first; at != last; ++at) {
    if (equal(entries_[at->second].first, key, budget)) return &entries_[at->second].second;
  }
  return nullptr;
}

const Value* DictObject::find(const Value& key, Budget& budget) const {
  const uint64_t hash = hash_value(key, budget);
  if (key.is_string()) return find(key.text());
  if (!index_.empty()) return find_hashed(hash, key, budget);
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

void DictObject::set(Value key, Value value, Budget& budget) {
  hold(*this, key);
  hold(*this, value);
  if (const Value* present = find(key, budget)) {
    const_cast<Value&>(*present) = std::move(value);  // one of our own entries
    return;
  }
  entries_.emplace_back(std::move(key), std::move(value));
  if (entries_.size() < kSmallDict) return;
  for (size_t i = index_.size(); i < entries_.size(); ++i) {
    index_.emplace(hash_value(entries_[i].first, budget), static_cast<uint32_t>(i));
  }
}

void DictObject::set(std::string_view key, Value value) {
  const Limits limits;
  Budget texts(limits);  // that are there already: who made them has paid
  set(Value::string(std::string(key)), std::move(value), texts);
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

}  // namespace engine::jinja
