// Filters on lists, dicts and other things that can be walked.
#include <algorithm>
#include <functional>

#include "tokenizer/chat/jinja/arguments.h"
#include "tokenizer/chat/jinja/builtins.h"
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

#define FILTER(NAME)                                                                              \
  Value NAME([[maybe_unused]] Interpreter& interpreter, [[maybe_unused]] const std::string& name, \
             const Value& input, [[maybe_unused]] const CallArguments& call)

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

FILTER(filter_list) {
  const Arguments none(name, call, {});
  return Value::list(collect(interpreter, input));
}

FILTER(filter_length) {
  const Arguments none(name, call, {});
  const auto count = length(input);
  if (!count) type_error("object of type '" + type_name(input) + "' has no len()");
  return Value::integer(*count);
}

FILTER(filter_first) {
  const Arguments none(name, call, {});
  std::optional<Value> item = iterate(input)->next(interpreter);
  return item ? *item : Value::undefined("No first item, sequence was empty.");
}

FILTER(filter_last) {
  const Arguments none(name, call, {});
  if (input.is(Type::iterator) || !iterable(input)) {
    type_error("'" + type_name(input) + "' object is not reversible");
  }
  const std::vector<Value> items = collect(interpreter, input);
  if (items.empty()) return Value::undefined("No last item, sequence was empty.");
  if (input.is_string()) return Value::string(items.back().text(), input.markup());
  return items.back();
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

FILTER(filter_join) {
  const Arguments arguments(name, call, {"d", "attribute"});
  const std::string separator =
      arguments.has(0) ? to_text(arguments.at(0), interpreter.budget()) : "";
  std::string text;
  bool first = true;
  const auto iterator = iterate(input);
  while (const std::optional<Value> item = iterator->next(interpreter)) {
    if (!first) text += separator;
    first = false;
    const size_t before = text.size();
    append_text(
        arguments.at(1).is_none() ? *item : attribute_path(interpreter, *item, arguments.at(1)),
        interpreter.budget(), &text);
    interpreter.budget().take(text.size() - before + separator.size());
  }
  return Value::string(std::move(text));
}

// Sorts by keys, as Python's sorted() does.
std::vector<Value> sorted(Interpreter& interpreter, std::vector<Value> items,
                          std::vector<Value> keys, bool reverse) {
  std::vector<size_t> places(items.size());
  for (size_t i = 0; i < places.size(); ++i) places[i] = i;
  std::stable_sort(places.begin(), places.end(), [&](size_t a, size_t b) {
    return reverse ? compare(interpreter, Comparison::less, keys[b], keys[a])
                   : compare(interpreter, Comparison::less, keys[a], keys[b]);
  });
  std::vector<Value> result;
  for (const size_t place : places) result.push_back(items[place]);
  return result;
}

Value folded(Interpreter& interpreter, const Value& value, bool case_sensitive) {
  return case_sensitive ? value : without_case(interpreter, value);
}

FILTER(filter_sort) {
  const Arguments arguments(name, call, {"reverse", "case_sensitive", "attribute"});
  const bool sensitive = arguments.boolean(1, false);
  std::vector<Value> items = collect(interpreter, input), keys;
  for (const Value& item : items) {
    // "a,b.c" sorts by a, then by b.c.
    std::vector<Value> parts;
    if (arguments.at(2).is_string()) {
      for (const std::string_view path : split(arguments.text(2), ",", -1)) {
        parts.push_back(folded(interpreter,
                               attribute_path(interpreter, item, Value::string(std::string(path))),
                               sensitive));
      }
    } else {
      parts.push_back(
          folded(interpreter, attribute_path(interpreter, item, arguments.at(2)), sensitive));
    }
    keys.push_back(Value::list(std::move(parts)));
  }
  return Value::list(
      sorted(interpreter, std::move(items), std::move(keys), arguments.boolean(0, false)));
}

FILTER(filter_dictsort) {
  const Arguments arguments(name, call, {"case_sensitive", "by", "reverse"});
  const std::string by = arguments.has(1) ? to_text(arguments.at(1), interpreter.budget()) : "key";
  if (by != "key" && by != "value") {
    argument_error("You can only sort by either \"key\" or \"value\"");
  }
  if (input.is_undefined()) fail_undefined(input);
  if (!input.is_dict()) {
    throw TemplateError("AttributeError",
                        quoted(type_name(input)) + " object has no attribute 'items'");
  }
  std::vector<Value> items, keys;
  for (const auto& [key, value] : input.dict().entries()) {
    items.push_back(Value::tuple({key, value}));
    keys.push_back(folded(interpreter, by == "key" ? key : value, arguments.boolean(0, false)));
  }
  return Value::list(
      sorted(interpreter, std::move(items), std::move(keys), arguments.boolean(2, false)));
}

FILTER(filter_unique) {
  const Arguments arguments(name, call, {"case_sensitive", "attribute"});
  const bool sensitive = arguments.boolean(0, false);
  auto seen = std::make_shared<DictObject>();
  const auto prepare = [path = arguments.at(1), sensitive, seen](Interpreter&) {
    return [path, sensitive, seen](Interpreter& in, const Value& element) -> std::optional<Value> {
      const Value key = folded(in, attribute_path(in, element, path), sensitive);
      if (seen->find(key)) return std::nullopt;
      in.budget().take(sizeof(Value) * 2);
      seen->set(key, {});
      return element;
    };
  };
  return stepping(input, prepare, false);
}

template <bool Largest>
FILTER(filter_extreme) {
  const Arguments arguments(name, call, {"case_sensitive", "attribute"});
  const auto iterator = iterate(input);
  std::optional<Value> best;
  Value best_key;
  while (const std::optional<Value> item = iterator->next(interpreter)) {
    const Value key = folded(interpreter, attribute_path(interpreter, *item, arguments.at(1)),
                             arguments.boolean(0, false));
    if (!best ||
        compare(interpreter, Largest ? Comparison::greater : Comparison::less, key, best_key)) {
      best = item;
      best_key = key;
    }
  }
  return best ? *best : Value::undefined("No aggregated item, sequence was empty.");
}

FILTER(filter_sum) {
  const Arguments arguments(name, call, {"attribute", "start"});
  Value total = arguments.has(1) ? arguments.at(1) : Value::integer(0);
  if (total.is_string()) type_error("sum() can't sum strings [use ''.join(seq) instead]");
  const auto iterator = iterate(input);
  while (const std::optional<Value> item = iterator->next(interpreter)) {
    interpreter.budget().step();
    total = binary(
        interpreter, BinaryOperator::add, total,
        arguments.at(0).is_none() ? *item : attribute_path(interpreter, *item, arguments.at(0)));
  }
  return total;
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

FILTER(filter_groupby) {
  const Arguments arguments(name, call, {"attribute", "default", "case_sensitive"}, 1);
  const bool sensitive = arguments.boolean(2, false);
  const Value* fallback = arguments.at(1).is_none() ? nullptr : &arguments.at(1);
  std::vector<Value> items = collect(interpreter, input), keys;
  for (const Value& item : items) {
    keys.push_back(folded(interpreter, attribute_path(interpreter, item, arguments.at(0), fallback),
                          sensitive));
  }
  std::vector<Value> order;
  for (size_t i = 0; i < items.size(); ++i) {
    order.push_back(Value::integer(static_cast<int64_t>(i)));
  }
  std::vector<Value> groups, members;
  order = sorted(interpreter, std::move(order), keys, false);
  for (size_t i = 0; i < order.size(); ++i) {
    const auto place = static_cast<size_t>(order[i].as_integer());
    members.push_back(items[place]);
    const bool ends = i + 1 == order.size() ||
                      !equal(keys[place], keys[static_cast<size_t>(order[i + 1].as_integer())],
                             interpreter.budget());
    if (!ends) continue;
    const Value shown = attribute_path(interpreter, members[0], arguments.at(0), fallback);
    const Value group = Value::tuple({shown, Value::list(std::exchange(members, {}))});
    group.get<SequenceObject>().group = true;
    groups.push_back(group);
  }
  return Value::list(std::move(groups));
}

#undef FILTER

constexpr Filter kFilters[] = {
    {"batch", filter_batch},
    {"count", filter_length},
    {"dictsort", filter_dictsort},
    {"first", filter_first},
    {"groupby", filter_groupby},
    {"items", filter_items},
    {"join", filter_join},
    {"last", filter_last},
    {"length", filter_length},
    {"list", filter_list},
    {"map", filter_map},
    {"max", filter_extreme<true>},
    {"min", filter_extreme<false>},
    {"reject", filter_select<false, false>},
    {"rejectattr", filter_select<false, true>},
    {"reverse", filter_reverse},
    {"select", filter_select<true, false>},
    {"selectattr", filter_select<true, true>},
    {"slice", filter_slice},
    {"sort", filter_sort},
    {"sum", filter_sum},
    {"unique", filter_unique},
};

}  // namespace

Value attribute_path(Interpreter& interpreter, const Value& object, const Value& path,
                     const Value* fallback) {
  if (path.is_none()) return object;
  Value value = object;
  const auto follow = [&](const Value& key) {
    value = get_item(interpreter, value, key);
    if (fallback && value.is_undefined()) value = *fallback;
  };
  if (!path.is_string()) {
    follow(path);
    return value;
  }
  for (const std::string_view part : split(path.text(), ".", -1)) {
    const bool number = !part.empty() && part.size() < 19 &&
                        part.find_first_not_of("0123456789") == std::string_view::npos;
    follow(number ? Value::integer(std::stoll(std::string(part)))
                  : Value::string(std::string(part)));
  }
  return value;
}

Value without_case(Interpreter& interpreter, const Value& value) {
  if (!value.is_string()) return value;
  interpreter.budget().take(value.text().size());
  return Value::string(to_lower(value.text()), value.markup());
}

const Filter* find_sequence_filter(std::string_view name) {
  const auto* at = std::find_if(std::begin(kFilters), std::end(kFilters),
                                [name](const Filter& filter) { return filter.name == name; });
  return at == std::end(kFilters) ? nullptr : at;
}

}  // namespace engine::jinja
