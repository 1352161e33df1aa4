// Filters that make one value of a list, dict or iterator: its length, order, sum, groups.
#include <algorithm>

#include "tokenizer/chat/jinja/arguments.h"
#include "tokenizer/chat/jinja/builtins.h"
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

FILTER(filter_join) {
  const Arguments arguments(name, call, {"d", "attribute"});
  const std::string separator =
      arguments.has(0) ? to_text(arguments.at(0), interpreter.budget()) : "";
  std::string text;
  bool first = true;
  const auto iterator = iterate(input);
  while (const std::optional<Value> item = iterator->next(interpreter)) {
    interpreter.budget().step();
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

FILTER(filter_sort) {
  const Arguments arguments(name, call, {"reverse", "case_sensitive", "attribute"});
  const bool sensitive = arguments.boolean(1, false);
  std::vector<Value> items = collect(interpreter, input), keys;
  for (const Value& item : items) {
    // "a,b.c" sorts by a, then by b.c.
    std::vector<Value> parts;
    if (arguments.at(2).is_string()) {
      interpreter.budget().step(arguments.text(2).size() / 8);
      for (const std::string_view path : split(arguments.text(2), ",", -1)) {
        interpreter.budget().take(sizeof(Value) * 2);
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

constexpr Filter kFilters[] = {
    {"count", filter_length},       {"dictsort", filter_dictsort}, {"first", filter_first},
    {"groupby", filter_groupby},    {"join", filter_join},         {"last", filter_last},
    {"length", filter_length},      {"list", filter_list},         {"max", filter_extreme<true>},
    {"min", filter_extreme<false>}, {"sort", filter_sort},         {"sum", filter_sum},
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
  pay_to_read(path, interpreter.budget());
  for (const std::string_view part : split(path.text(), ".", -1)) {
    interpreter.budget().step();
    const bool number = !part.empty() && part.size() < 19 &&
                        part.find_first_not_of("0123456789") == std::string_view::npos;
    follow(number ? Value::integer(std::stoll(std::string(part)))
                  : Value::string(std::string(part)));
  }
  return value;
}

Value folded(Interpreter& interpreter, const Value& value, bool case_sensitive) {
  if (case_sensitive || !value.is_string()) return value;
  interpreter.budget().take(value.text().size());
  return Value::string(to_lower(value.text()), value.markup());
}

const Filter* find_sequence_filter(std::string_view name) {
  const auto* at = std::find_if(std::begin(kFilters), std::end(kFilters),
                                [name](const Filter& filter) { return filter.name == name; });
  return at == std::end(kFilters) ? nullptr : at;
}

}  // namespace engine::jinja
