// Functions that every template sees.
#include <algorithm>
#include <array>

#include "tokenizer/chat/jinja/arguments.h"
#include "tokenizer/chat/jinja/builtins.h"
#include "tokenizer/chat/jinja/interpreter.h"
#include "tokenizer/chat/jinja/loop.h"
#include "tokenizer/chat/jinja/print.h"
#include "tokenizer/chat/jinja/text.h"

namespace engine::jinja {
namespace {

constexpr int64_t kMaxRange = 100000;  // of Jinja's sandbox

using Function = Value (*)(Interpreter&, const CallArguments&);

struct NativeFunction final : Callable {
  Value call(Interpreter& interpreter, CallArguments& arguments) const override {
    interpreter.budget().step();
    return function(interpreter, arguments);
  }
  Function function = nullptr;
};

Value make_range(Interpreter&, const CallArguments& call) {
  const Arguments arguments("range", call, {"start", "stop", "step"}, 1);
  if (!call.keywords.empty()) type_error("range() takes no keyword arguments");
  auto range = std::make_shared<RangeObject>();
  range->stop = arguments.integer(0, 0);
  if (arguments.has(1)) {
    range->start = range->stop;
    range->stop = arguments.integer(1, 0);
    range->step = arguments.integer(2, 1);
  }
  if (range->step == 0) throw TemplateError("ValueError", "range() arg 3 must not be zero");
  const bool up = range->step > 0;
  if (up ? range->start < range->stop : range->start > range->stop) {
    const uint64_t distance =
        up ? static_cast<uint64_t>(range->stop) - static_cast<uint64_t>(range->start)
           : static_cast<uint64_t>(range->start) - static_cast<uint64_t>(range->stop);
    const uint64_t stride =
        up ? static_cast<uint64_t>(range->step) : -static_cast<uint64_t>(range->step);
    const uint64_t count = (distance - 1) / stride + 1;
    if (count > static_cast<uint64_t>(kMaxRange)) {
      throw TemplateError("OverflowError",
                          "Range too big. The sandbox blocks ranges larger than MAX_RANGE "
                          "(100000).");
    }
    range->count = static_cast<int64_t>(count);
  }
  return Value::object(Type::range, std::move(range));
}

// The arguments of dict(): a mapping or pairs, and keywords.
void fill(Interpreter& interpreter, const CallArguments& call, DictObject& dict) {
  if (call.positional.size() > 1) type_error("dict expected at most 1 argument");
  const auto set = [&](const Value& key, const Value& value) {
    interpreter.budget().take(sizeof(Value) * 2);
    dict.set(key, value, interpreter.budget());
  };
  if (!call.positional.empty()) {
    const Value& source = call.positional[0];
    if (source.is_dict()) {
      for (const auto& [key, value] : source.dict().entries()) set(key, value);
    } else {
      for (const Value& pair : collect(interpreter, source)) {
        const std::vector<Value> parts = collect(interpreter, pair);
        if (parts.size() != 2) {
          throw TemplateError("ValueError", "dictionary update sequence element has length " +
                                                std::to_string(parts.size()) + "; 2 is required");
        }
        set(parts[0], parts[1]);
      }
    }
  }
  for (const auto& [key, value] : call.keywords) set(Value::string(key), value);
}

Value make_dict(Interpreter& interpreter, const CallArguments& call) {
  auto dict = std::make_shared<DictObject>();
  fill(interpreter, call, *dict);
  return Value::object(Type::dict, std::move(dict));
}

Value make_namespace(Interpreter& interpreter, const CallArguments& call) {
  auto space = std::make_shared<SpaceObject>();
  interpreter.budget().take(sizeof(SpaceObject));
  fill(interpreter, call, space->attributes);
  for (const auto& [key, value] : space->attributes.entries()) {
    if (!key.is_string() || !key.text().starts_with('_')) continue;
    throw TemplateError("SecurityError",
                        "Chat templates cannot store underscore-prefixed attributes on a "
                        "namespace, but got " +
                            quoted(key.text()) + ". Please rename the attribute.");
  }
  interpreter.keep(space);
  return Value::object(Type::space, std::move(space));
}

Value make_cycler(Interpreter&, const CallArguments& call) {
  if (call.positional.empty()) {
    throw TemplateError("RuntimeError", "at least one item has to be provided");
  }
  auto cycler = std::make_shared<CyclerObject>();
  cycler->items = call.positional;
  for (const Value& item : cycler->items) hold(*cycler, item);
  return Value::object(Type::cycler, std::move(cycler));
}

struct Joiner final : Callable {
  Value call(Interpreter&, CallArguments&) const override {
    return std::exchange(used, true) ? separator : Value::string("");
  }
  Value separator;
  mutable bool used = false;
};

Value make_joiner(Interpreter&, const CallArguments& call) {
  const Arguments arguments("joiner", call, {"sep"});
  auto joiner = std::make_shared<Joiner>();
  joiner->name = "<Joiner>";
  joiner->separator = arguments.has(0) ? arguments.at(0) : Value::string(", ");
  hold(*joiner, joiner->separator);
  return Value::object(Type::callable, std::move(joiner));
}

Value raise_exception(Interpreter& interpreter, const CallArguments& call) {
  const Arguments arguments("raise_exception", call, {"message"}, 1);
  throw TemplateError("TemplateError", to_text(arguments.at(0), interpreter.budget()));
}

Value strftime_now(Interpreter& interpreter, const CallArguments& call) {
  const Arguments arguments("strftime_now", call, {"format"}, 1);
  // strftime() cannot tell an empty result from a buffer that is too small.
  const std::string format = replace_all(arguments.text(0), "%f", "000000", -1) + "x";
  if (format.size() > 256) throw TemplateError("LimitError", "the date format is too long");
  std::array<char, 8192> buffer;
  const std::tm now = *interpreter.options().now;
  const size_t size = std::strftime(buffer.data(), buffer.size(), format.c_str(), &now);
  if (size == 0) throw TemplateError("LimitError", "the date is too long");
  return Value::string(std::string(buffer.data(), size - 1));
}

constexpr std::pair<std::string_view, Function> kGlobals[] = {
    {"cycler", make_cycler},
    {"dict", make_dict},
    {"joiner", make_joiner},
    {"namespace", make_namespace},
    {"raise_exception", raise_exception},
    {"range", make_range},
    {"strftime_now", strftime_now},
};

}  // namespace

std::optional<Value> find_global(const Interpreter& interpreter, std::string_view name) {
  for (const auto& [global, function] : kGlobals) {
    if (global != name) continue;
    if (function == strftime_now && !interpreter.options().now) return std::nullopt;
    auto callable = std::make_shared<NativeFunction>();
    callable->name = "<function " + std::string(name) + ">";
    callable->function = function;
    return Value::object(Type::callable, std::move(callable));
  }
  return std::nullopt;
}

}  // namespace engine::jinja
