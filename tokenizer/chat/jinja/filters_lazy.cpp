// Filters that walk others, most of them as far as they are asked: map, select, batch, ...
#include <algorithm>
#include <functional>

#include "tokenizer/chat/jinja/arguments.h"
#include "tokenizer/chat/jinja/filter_table.h"
#include "tokenizer/chat/jinja/interpreter.h"
#include "tokenizer/chat/jinja/operators.h"
#include "tokenizer/chat/jinja/print.h"
#include "tokenizer/chat/jinja/text.h"

namespace engine::jinja {
namespace {

[[noreturn]] void argument_error(std::string message) {
  throw TemplateError("FilterArgumentError", std::move(message));
}

// A generator that computes its elements when the first is asked for.
struct LazyIterator final : IteratorObject {
  std::optional<Value> next(Interpreter& interpreter) override {
    if (make) std::exchange(make, nullptr)(interpreter, items);
    if (at == items.size()) return std::nullopt;
    return items[at++];
  }
  std::function<void(Interpreter&, std::vector<Value>&)> make;
  std::vector<Value> items;
  size_t at = 0;
};

Value lazy(const Value& input, std::function<void(Interpreter&, std::vector<Value>&)> make,
           const char* name = "generator") {
  auto iterator = std::make_shared<LazyIterator>();
  hold(*iterator, input);
  iterator->make = std::move(make);
  iterator->name = name;
  return Value::object(Type::iterator, std::move(iterator));
}

// Elements of `input` through `step`, which gives a value or drops the element.
struct StepIterator final : IteratorObject {
  using Step = std::function<std::optional<Value>(Interpreter&, const Value&)>;
  std::optional<Value> next(Interpreter& interpreter) override {
    const DepthGuard guard(interpreter.budget());
    if (!source) {
      // `if value:` of Jinja: nothing is checked, and no argument read, for what is empty.
      if (falsy_is_empty && !truth(input)) return std::nullopt;
      source = iterate(input);
      step = prepare(interpreter);
    }
    while (const std::optional<Value> element = source->next(interpreter)) {
      interpreter.budget().step();
      if (std::optional<Value> value = step(interpreter, *element)) return value;
    }
    return std::nullopt;
  }
  Value input;
  bool falsy_is_empty = true;  // whether it can be walked or not
  std::function<Step(Interpreter&)> prepare;
  std::shared_ptr<IteratorObject> source;
  Step step;
};

Value stepping(const Value& input, std::function<StepIterator::Step(Interpreter&)> prepare,
               bool falsy_is_empty = true) {
  auto iterator = std::make_shared<StepIterator>();
  hold(*iterator, input);
  iterator->input = input;
  iterator->falsy_is_empty = falsy_is_empty;
  iterator->prepare = std::move(prepare);
  return Value::object(Type::iterator, std::move(iterator));
}

CallArguments without_first(const CallArguments& call, size_t count) {
  CallArguments rest;
  rest.positional.assign(call.positional.begin() + static_cast<ptrdiff_t>(count),
                         call.positional.end());
  rest.keywords = call.keywords;
  return rest;
}

FILTER(filter_map) {
  return stepping(input, [call](Interpreter&) -> StepIterator::Step {
    const auto keyword = [&call](std::string_view key) -> const Value* {
      for (const auto& [name, value] : call.keywords) {
        if (name == key) return &value;
      }
      return nullptr;
    };
    if (const Value* path = keyword("attribute"); path && call.positional.empty()) {
      const Value* fallback = keyword("default");
      for (const auto& [key, value] : call.keywords) {
        if (key != "attribute" && key != "default") {
          argument_error("Unexpected keyword argument " + quoted(key));
        }
      }
      const bool has_fallback = fallback && !fallback->is_none();
      return [path = *path, fallback = has_fallback ? *fallback : Value(), has_fallback](
                 Interpreter& in, const Value& element) -> std::optional<Value> {
        return attribute_path(in, element, path, has_fallback ? &fallback : nullptr);
      };
    }
    if (call.positional.empty()) argument_error("map requires a filter argument");
    if (!call.positional[0].is_string()) type_error("the name of a filter must be a string");
    return [filter = call.positional[0].text(), rest = without_first(call, 1)](
               Interpreter& in, const Value& element) -> std::optional<Value> {
      return in.apply_filter(filter, element, rest);
    };
  });
}

template <bool Keep, bool ByAttribute>
FILTER(filter_select) {
  return stepping(input, [call](Interpreter&) -> StepIterator::Step {
    const size_t offset = ByAttribute ? 1 : 0;
    if (ByAttribute && call.positional.empty()) {
      argument_error("Missing parameter for attribute name");
    }
    const Value path = ByAttribute ? call.positional[0] : Value();
    std::string test;
    CallArguments rest;
    if (call.positional.size() > offset) {
      if (!call.positional[offset].is_string()) type_error("the name of a test must be a string");
      test = call.positional[offset].text();
      rest = without_first(call, offset + 1);
    }
    return [path, test, rest](Interpreter& in, const Value& element) -> std::optional<Value> {
      const Value tested = ByAttribute ? attribute_path(in, element, path) : element;
      const bool holds = test.empty() ? truth(tested) : in.apply_test(test, tested, rest);
      if (holds != Keep) return std::nullopt;
      return element;
    };
  });
}

FILTER(filter_items) {
  return lazy(input, [input](Interpreter& in, std::vector<Value>& items) {
    if (input.is_undefined()) return;
    if (!input.is_dict()) type_error("Can only get item pairs from a mapping.");
    in.budget().take(input.dict().size() * sizeof(Value) * 3);
    for (const auto& [key, value] : input.dict().entries()) {
      items.push_back(Value::tuple({key, value}));
    }
  });
}

FILTER(filter_reverse) {
  const Arguments none(name, call, {});
  if (input.is_string()) {
    const auto characters = split_characters(input.text());
    interpreter.budget().take(input.text().size());
    std::string text;
    for (auto at = characters.rbegin(); at != characters.rend(); ++at) text += *at;
    return Value::string(std::move(text), input.markup());
  }
  if (!iterable(input)) argument_error("argument must be iterable");
  std::vector<Value> items = collect(interpreter, input);
  std::reverse(items.begin(), items.end());
  if (input.is(Type::iterator)) return Value::list(std::move(items));
  return lazy(
      input, [items](Interpreter&, std::vector<Value>& out) { out = items; }, "reversed");
}

FILTER(filter_unique) {
  const Arguments arguments(name, call, {"case_sensitive", "attribute"});
  const bool sensitive = arguments.boolean(0, false);
  auto seen = std::make_shared<DictObject>();
  const auto prepare = [path = arguments.at(1), sensitive, seen](Interpreter&) {
    return [path, sensitive, seen](Interpreter& in, const Value& element) -> std::optional<Value> {
      const Value key = folded(in, attribute_path(in, element, path), sensitive);
      if (seen->find(key, in.budget())) return std::nullopt;
      in.budget().take(sizeof(Value) * 2);
      seen->set(key, {}, in.budget());
      return element;
    };
  };
  return stepping(input, prepare, false);
}

FILTER(filter_batch) {
  const Arguments arguments(name, call, {"linecount", "fill_with"}, 1);
  const int64_t size = arguments.integer(0, 0);
  return lazy(input,
              [input, size, fill = arguments.at(1)](Interpreter& in, std::vector<Value>& out) {
                std::vector<Value> group;
                for (Value& item : collect(in, input)) {
                  if (static_cast<int64_t>(group.size()) == size) {
                    out.push_back(Value::list(std::exchange(group, {})));
                  }
                  group.push_back(std::move(item));
                }
                if (group.empty()) return;
                if (!fill.is_none() && size > static_cast<int64_t>(group.size())) {
                  in.budget().take(sizeof(Value) * static_cast<size_t>(size));
                  group.resize(static_cast<size_t>(size), fill);
                }
                out.push_back(Value::list(std::move(group)));
              });
}

FILTER(filter_slice) {
  const Arguments arguments(name, call, {"slices", "fill_with"}, 1);
  const int64_t slices = arguments.integer(0, 0);
  return lazy(
      input, [input, slices, fill = arguments.at(1)](Interpreter& in, std::vector<Value>& out) {
        const std::vector<Value> items = collect(in, input);
        const auto count = static_cast<int64_t>(items.size());
        if (slices == 0) {
          throw TemplateError("ZeroDivisionError", "integer division or modulo by zero");
        }
        if (slices < 0) return;
        in.budget().take(sizeof(Value) * static_cast<size_t>(std::min<int64_t>(slices, INT32_MAX)));
        auto at = items.begin();
        for (int64_t i = 0; i < slices; ++i) {
          const bool longer = i < count % slices;
          const auto end = at + (count / slices + longer);
          std::vector<Value> part(at, end);
          if (!fill.is_none() && !longer) part.push_back(fill);
          at = end;
          out.push_back(Value::list(std::move(part)));
        }
      });
}

constexpr Filter kFilters[] = {
    {"batch", filter_batch},
    {"items", filter_items},
    {"map", filter_map},
    {"reject", filter_select<false, false>},
    {"rejectattr", filter_select<false, true>},
    {"reverse", filter_reverse},
    {"select", filter_select<true, false>},
    {"selectattr", filter_select<true, true>},
    {"slice", filter_slice},
    {"unique", filter_unique},
};

}  // namespace

const Filter* find_lazy_filter(std::string_view name) {
  const auto* at = std::find_if(std::begin(kFilters), std::end(kFilters),
                                [name](const Filter& filter) { return filter.name == name; });
  return at == std::end(kFilters) ? nullptr : at;
}

}  // namespace engine::jinja
