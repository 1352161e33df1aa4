// Methods of lists, tuples, dicts and the loop variable; methods of all values by name.
#include "tokenizer/chat/jinja/method_table.h"

#include <algorithm>

#include "tokenizer/chat/jinja/arguments.h"
#include "tokenizer/chat/jinja/interpreter.h"
#include "tokenizer/chat/jinja/loop.h"
#include "tokenizer/chat/jinja/operators.h"
#include "tokenizer/chat/jinja/print.h"
#include "tokenizer/chat/jinja/text.h"

namespace engine::jinja {
namespace {

struct BoundMethod final : Callable {
  Value call(Interpreter& interpreter, CallArguments& arguments) const override {
    interpreter.budget().step();
    pay_to_read(self, interpreter.budget());
    pay_to_read(arguments, interpreter.budget());
    if (self.markup()) {
      for (Value& value : arguments.positional) {
        if (value.is_string() && !value.markup()) {
          value = Value::string(escape_html(value.text()), true);
        }
      }
    }
    return method(interpreter, self, short_name, arguments);
  }
  Value self;
  Method method = nullptr;
  std::string short_name;
};

// --- Lists, tuples. ---

METHOD(sequence_count) {
  const Arguments arguments(name, call, {"value"}, 1);
  int64_t count = 0;
  for (const Value& item : self.items()) {
    count += equal(item, arguments.at(0), interpreter.budget());
  }
  return Value::integer(count);
}

METHOD(sequence_index) {
  const Arguments arguments(name, call, {"value", "start", "stop"}, 1);
  const int64_t size = *length(self);
  const auto bound = [&](size_t i, int64_t fallback) {
    const int64_t at = arguments.integer(i, fallback);
    return std::clamp<int64_t>(at < 0 ? at + size : at, 0, size);
  };
  for (int64_t i = bound(1, 0); i < bound(2, size); ++i) {
    if (equal(self.items()[static_cast<size_t>(i)], arguments.at(0), interpreter.budget())) {
      return Value::integer(i);
    }
  }
  throw TemplateError(
      "ValueError", repr(arguments.at(0), interpreter.budget()) + " is not in " + type_name(self));
}

METHOD(copy) {
  const Arguments none(name, call, {});
  return self;
}

constexpr NamedMethod kListMethods[] = {
    {"append", nullptr}, {"clear", nullptr},        {"copy", copy},      {"count", sequence_count},
    {"extend", nullptr}, {"index", sequence_index}, {"insert", nullptr}, {"pop", nullptr},
    {"remove", nullptr}, {"reverse", nullptr},      {"sort", nullptr},
};
constexpr NamedMethod kTupleMethods[] = {{"count", sequence_count}, {"index", sequence_index}};

// --- Dicts. ---

template <ViewKind Kind>
METHOD(dict_view) {
  const Arguments none(name, call, {});
  auto view = std::make_shared<ViewObject>();
  view->kind = Kind;
  view->dict = self;
  hold(*view, self);
  return Value::object(Type::view, std::move(view));
}

METHOD(dict_get) {
  const Arguments arguments(name, call, {"key", "default"}, 1);
  const Value* found = self.dict().find(arguments.at(0), interpreter.budget());
  return found ? *found : arguments.at(1);
}

METHOD(dict_fromkeys) {
  const Arguments arguments(name, call, {"iterable", "value"}, 1);
  auto dict = std::make_shared<DictObject>();
  for (const Value& key : collect(interpreter, arguments.at(0))) {
    dict->set(key, arguments.at(1), interpreter.budget());
  }
  return Value::object(Type::dict, std::move(dict));
}

constexpr NamedMethod kDictMethods[] = {
    {"clear", nullptr},
    {"copy", copy},
    {"fromkeys", dict_fromkeys},
    {"get", dict_get},
    {"items", dict_view<ViewKind::items>},
    {"keys", dict_view<ViewKind::keys>},
    {"pop", nullptr},
    {"popitem", nullptr},
    {"setdefault", nullptr},
    {"update", nullptr},
    {"values", dict_view<ViewKind::values>},
};

// --- The loop variable, cycler. ---

METHOD(loop_cycle) {
  const auto& loop = self.get<LoopObject>();
  if (call.positional.empty()) type_error("no items for cycling given");
  return call.positional[static_cast<size_t>(loop.index0) % call.positional.size()];
}

METHOD(loop_changed) {
  auto& loop = self.get<LoopObject>();
  const Value value = Value::tuple(call.positional);
  if (loop.last_changed && equal(*loop.last_changed, value, interpreter.budget())) {
    return Value::boolean(false);
  }
  loop.last_changed = value;
  return Value::boolean(true);
}

METHOD(cycler_next) {
  auto& cycler = self.get<CyclerObject>();
  const Value current = cycler.items[cycler.at];
  cycler.at = (cycler.at + 1) % cycler.items.size();
  return current;
}

METHOD(cycler_reset) {
  self.get<CyclerObject>().at = 0;
  return {};
}

constexpr NamedMethod kLoopMethods[] = {{"changed", loop_changed}, {"cycle", loop_cycle}};
constexpr NamedMethod kCyclerMethods[] = {{"next", cycler_next}, {"reset", cycler_reset}};

std::optional<Value> bind(std::span<const NamedMethod> methods, const Value& self,
                          std::string_view name) {
  for (const NamedMethod& entry : methods) {
    if (entry.name != name) continue;
    const std::string type = type_name(self);
    if (!entry.method) {
      return Value::undefined(
          "access to attribute " + quoted(name) + " of " + quoted(type) + " object is unsafe.",
          "SecurityError");
    }
    auto bound = std::make_shared<BoundMethod>();
    bound->name = "<built-in method " + std::string(name) + " of " + type + " object>";
    bound->short_name = std::string(name);
    bound->self = self;
    hold(*bound, self);
    bound->method = entry.method;
    return Value::object(Type::callable, std::move(bound));
  }
  return std::nullopt;
}

}  // namespace

std::optional<Value> find_method(const Value& object, std::string_view name) {
  switch (object.type()) {
    case Type::string:
      return bind(string_methods(), object, name);
    case Type::list:
      return bind(kListMethods, object, name);
    case Type::tuple:
      if (object.get<SequenceObject>().group && (name == "grouper" || name == "list")) {
        return object.items()[name == "list"];
      }
      return bind(kTupleMethods, object, name);
    case Type::dict:
      return bind(kDictMethods, object, name);
    case Type::loop:
      if (auto property = loop_property(object, name)) return property;
      return bind(kLoopMethods, object, name);
    case Type::cycler:
      if (name == "current") {
        const auto& cycler = object.get<CyclerObject>();
        return cycler.items[cycler.at];
      }
      return bind(kCyclerMethods, object, name);
    case Type::callable:
      return callable_attribute(object, name);
    default:
      return std::nullopt;
  }
}

}  // namespace engine::jinja
