// Walking values.
#include "tokenizer/chat/jinja/value.h"

namespace engine::jinja {
namespace {

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
