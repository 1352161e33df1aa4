// object.name, object[key] and slices.
#include <algorithm>

#include "tokenizer/chat/jinja/interpreter.h"
#include "tokenizer/chat/jinja/operators.h"
#include "tokenizer/chat/jinja/print.h"
#include "tokenizer/chat/jinja/text.h"

namespace engine::jinja {
namespace {

std::string object_name(const Value& object) {
  switch (object.type()) {
    case Type::none:
      return "None";
    case Type::string:
      return object.markup() ? "markupsafe.Markup object" : "str object";
    case Type::loop:
      return "jinja2.runtime.LoopContext object";
    default:
      return type_name(object) + " object";
  }
}

Value missing_attribute(const Value& object, std::string_view name) {
  return Value::undefined(quoted(object_name(object)) + " has no attribute " + quoted(name));
}

// Python's index of an element: negative ones count from the end.
std::optional<int64_t> checked_index(const Value& key, int64_t size) {
  if (!key.is_integral()) return std::nullopt;
  int64_t index = key.as_integer();
  if (index < 0) index += size;
  if (index < 0 || index >= size) return std::nullopt;
  return index;
}

Value character_at(const Value& string, int64_t index) {
  const StringObject& object = string.string_object();
  if (object.ascii) {
    return Value::string(object.text.substr(static_cast<size_t>(index), 1), object.markup);
  }
  const size_t begin = character_offset(object.text, index);
  const size_t size = character_offset(std::string_view(object.text).substr(begin), 1);
  return Value::string(object.text.substr(begin, size), object.markup);
}

// object[key] of Python; nothing where it raises TypeError or LookupError.
std::optional<Value> element(Interpreter& interpreter, const Value& object, const Value& key) {
  switch (object.type()) {
    case Type::undefined:
      fail_undefined(object);
    case Type::dict: {
      try {
        if (const Value* found = object.dict().find(key, interpreter.budget())) return *found;
      } catch (const TemplateError& error) {
        if (error.type() != "TypeError") throw;  // that is: not hashable
      }
      return std::nullopt;
    }
    case Type::list:
    case Type::tuple:
      if (const auto at = checked_index(key, *length(object))) {
        return object.items()[static_cast<size_t>(*at)];
      }
      return std::nullopt;
    case Type::string:
      interpreter.budget().step(object.text().size() / 64);
      if (const auto at = checked_index(key, *length(object))) return character_at(object, *at);
      return std::nullopt;
    case Type::range: {
      const auto& range = object.get<RangeObject>();
      if (const auto at = checked_index(key, range.count)) {
        return Value::integer(range.start + range.step * *at);
      }
      return std::nullopt;
    }
    default:
      return std::nullopt;
  }
}

Value unsafe(const Value& object, std::string_view name) {
  return Value::undefined("access to attribute " + quoted(name) + " of " +
                              quoted(type_name(object)) + " object is unsafe.",
                          "SecurityError");
}

// getattr(object, name) of Python in the sandbox; nothing where it raises AttributeError.
std::optional<Value> attribute(const Value& object, std::string_view name) {
  if (name.starts_with("__") && name.ends_with("__") && name.size() > 4) {
    return unsafe(object, name);
  }
  if (object.is_undefined()) fail_undefined(object);
  if (object.is(Type::space)) {
    if (const Value* found = object.get<SpaceObject>().attributes.find(name)) return *found;
    return std::nullopt;
  }
  return find_method(object, name);
}

}  // namespace

Value get_item(Interpreter& interpreter, const Value& object, const Value& key) {
  if (auto found = element(interpreter, object, key)) return *std::move(found);
  if (key.is_string()) {
    interpreter.budget().take(key.text().size());  // for the message
    if (auto found = attribute(object, key.text())) return *std::move(found);
    return missing_attribute(object, key.text());
  }
  return Value::undefined(object_name(object) + " has no element " +
                          repr(key, interpreter.budget()));
}

Value get_attribute(Interpreter& interpreter, const Value& object, const std::string& name) {
  if (object.is_dict()) {  // the usual case, without making a string of the name
    if (auto found = attribute(object, name)) return *std::move(found);
    if (const Value* found = object.dict().find(std::string_view(name))) return *found;
    return missing_attribute(object, name);
  }
  if (auto found = attribute(object, name)) return *std::move(found);
  return missing_attribute(object, name);
}

Value get_slice(Interpreter& interpreter, const Value& object, const Slice& slice) {
  if (object.is_undefined()) fail_undefined(object);
  if (object.is_dict()) type_error("unhashable type: 'slice'");
  if (!object.is_string() && !object.is_sequence() && !object.is(Type::range)) {
    type_error("'" + type_name(object) + "' object is not subscriptable");
  }
  for (const Value* bound : {&slice.start, &slice.stop, &slice.step}) {
    if (bound->is_none() || bound->is_integral()) continue;
    type_error("slice indices must be integers or None or have an __index__ method");
  }
  const int64_t step = slice.step.is_none() ? 1 : slice.step.as_integer();
  if (step == 0) throw TemplateError("ValueError", "slice step cannot be zero");
  const int64_t size = *length(object);
  const int64_t lowest = step < 0 ? -1 : 0, highest = step < 0 ? size - 1 : size;
  const auto bound = [&](const Value& value, int64_t fallback) {
    if (value.is_none()) return fallback;
    int64_t at = value.as_integer();
    if (at < 0) at = at < -size ? lowest : at + size;
    return std::clamp(at, lowest, highest);
  };
  const int64_t start = bound(slice.start, step < 0 ? highest : lowest);
  const int64_t stop = bound(slice.stop, step < 0 ? lowest : highest);
  int64_t count = 0;
  if (step > 0 ? start < stop : start > stop) {
    const uint64_t distance = static_cast<uint64_t>(step > 0 ? stop - start : start - stop);
    const uint64_t stride = step > 0 ? static_cast<uint64_t>(step) : -static_cast<uint64_t>(step);
    count = static_cast<int64_t>((distance - 1) / stride + 1);
  }
  if (object.is(Type::range)) {
    const auto& range = object.get<RangeObject>();
    auto result = std::make_shared<RangeObject>();
    const auto at = [&range](int64_t index) {  // wraps where nothing is there to be read
      return static_cast<int64_t>(static_cast<uint64_t>(range.start) +
                                  static_cast<uint64_t>(range.step) * static_cast<uint64_t>(index));
    };
    result->count = count;
    result->start = at(start);
    result->stop = at(stop);
    result->step =
        static_cast<int64_t>(static_cast<uint64_t>(range.step) * static_cast<uint64_t>(step));
    return Value::object(Type::range, std::move(result));
  }
  if (object.is_string()) {
    const std::string& text = object.text();
    interpreter.budget().take(text.size());
    std::string result;
    if (step == 1) {
      const size_t begin = character_offset(text, start);
      const size_t end = begin + character_offset(std::string_view(text).substr(begin), count);
      result = text.substr(begin, end - begin);
    } else {
      const std::vector<std::string_view> characters = split_characters(text);
      for (int64_t i = 0; i < count; ++i)
        result += characters[static_cast<size_t>(start + i * step)];
    }
    return Value::string(std::move(result), object.markup());
  }
  interpreter.budget().take(sizeof(Value) * static_cast<size_t>(count));
  std::vector<Value> items;
  items.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    items.push_back(object.items()[static_cast<size_t>(start + i * step)]);
  }
  return object.is(Type::list) ? Value::list(std::move(items)) : Value::tuple(std::move(items));
}

}  // namespace engine::jinja
