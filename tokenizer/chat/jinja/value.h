// Values of a template: Python's, as far as templates see them.
//
// Integers have 64 bits (what would not fit is an OverflowError), strings are valid UTF-8 and count
// in code points where Python does. Lists, tuples and dicts never change once they are made, as in
// Jinja's immutable sandbox: so there are no cycles, except through a namespace.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tokenizer/chat/jinja/error.h"

namespace engine::jinja {

enum class Type : uint8_t {
  undefined,  // a name or member that is not there
  none,
  boolean,
  integer,
  real,
  string,
  list,
  tuple,
  dict,
  view,  // dict.keys(), .values(), .items()
  range,
  iterator,  // what map, select, items, ... give: can be walked once
  space,     // namespace(...)
  callable,  // function, method, macro
  loop,      // the variable `loop`
  cycler,
};

class Value;
class Interpreter;

struct Object {
  virtual ~Object() = default;
  int height = 0;  // levels of objects held by this one: freeing, comparing, printing recurse
};

struct StringObject final : Object {
  StringObject(std::string content, bool is_markup);
  std::string text;
  bool markup;  // result of `safe` or `escape`: joining it with other strings escapes those
  bool ascii;
};

struct UndefinedObject final : Object {
  std::string message;  // "'x' is undefined"
  const char* type = "UndefinedError";
};

struct SequenceObject final : Object {
  std::vector<Value> items;
  bool group = false;  // a pair of groupby: also .grouper and .list
  // Of a tuple, once it was asked for; 0 = not yet. Tuples of tuples would be walked for ever.
  std::atomic<uint64_t> hash{0};
};

struct DictObject;
struct RangeObject;
struct IteratorObject;
struct ViewObject;
struct SpaceObject;
struct Callable;
struct LoopObject;
struct CyclerObject;

class Value {
 public:
  Value();  // none
  static Value none() { return {}; }
  static Value boolean(bool value);
  static Value integer(int64_t value);
  static Value real(double value);
  static Value string(std::string text, bool markup = false);
  static Value list(std::vector<Value> items);
  static Value tuple(std::vector<Value> items);
  static Value object(Type type, std::shared_ptr<Object> object) {
    return Value(type, std::move(object));
  }
  static Value undefined(std::string message, const char* type = "UndefinedError");

  Type type() const { return type_; }
  bool is(Type type) const { return type_ == type; }
  bool is_undefined() const { return type_ == Type::undefined; }
  bool is_none() const { return type_ == Type::none; }
  bool is_string() const { return type_ == Type::string; }
  bool is_dict() const { return type_ == Type::dict; }
  bool is_sequence() const { return type_ == Type::list || type_ == Type::tuple; }
  // In arithmetic true is 1.
  bool is_integral() const { return type_ == Type::integer || type_ == Type::boolean; }
  bool is_number() const { return is_integral() || type_ == Type::real; }

  bool as_boolean() const { return scalar_.integer != 0; }
  int64_t as_integer() const { return scalar_.integer; }
  double as_real() const {  // of any number
    return type_ == Type::real ? scalar_.real : static_cast<double>(scalar_.integer);
  }
  const StringObject& string_object() const { return get<StringObject>(); }
  const std::string& text() const { return get<StringObject>().text; }
  bool markup() const { return is_string() && get<StringObject>().markup; }
  const std::vector<Value>& items() const { return get<SequenceObject>().items; }
  const DictObject& dict() const;
  // The object behind the value; `T` must be that of its type.
  template <class T>
  T& get() const {
    return static_cast<T&>(*object_);
  }
  const std::shared_ptr<Object>& shared() const { return object_; }

 private:
  Value(Type type, std::shared_ptr<Object> object) : type_(type), object_(std::move(object)) {
    scalar_.integer = 0;
  }
  Type type_;
  union {
    int64_t integer;
    double real;
  } scalar_;
  std::shared_ptr<Object> object_;
};

struct DictObject final : Object {
  using Entry = std::pair<Value, Value>;
  // `budget` pays for what is read and compared of the keys.
  const Value* find(const Value& key, Budget& budget) const;
  const Value* find(std::string_view key) const;
  // Inserts or replaces; throws TypeError for keys that cannot be hashed.
  void set(Value key, Value value, Budget& budget);
  void set(std::string_view key, Value value);
  const std::vector<Entry>& entries() const { return entries_; }
  size_t size() const { return entries_.size(); }
  void clear();

 private:
  const Value* find_hashed(uint64_t hash, const Value& key, Budget& budget) const;
  std::vector<Entry> entries_;
  std::unordered_multimap<uint64_t, uint32_t> index_;  // only of large dicts
};

struct RangeObject final : Object {
  int64_t start = 0, stop = 0, step = 1, count = 0;
};

enum class ViewKind : uint8_t { keys, values, items };
struct ViewObject final : Object {
  ViewKind kind = ViewKind::keys;
  Value dict;
};

// Yields values one by one.
struct IteratorObject : Object {
  virtual std::optional<Value> next(Interpreter& interpreter) = 0;
  const char* name = "generator";
};

struct SpaceObject final : Object {
  DictObject attributes;
};

struct CallArguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keywords;
};

struct Callable : Object {
  virtual Value call(Interpreter& interpreter, CallArguments& arguments) const = 0;
  std::string name;
};

// To be called for each value that an object keeps. Throws LimitError when they are nested too
// deep. Namespaces do not count: the interpreter takes them apart.
void hold(Object& holder, const Value& member);

// Name of the Python type, as error messages have it.
std::string type_name(const Value& value);
bool truth(const Value& value);
// Python's ==. `budget` pays for elements compared.
bool equal(const Value& a, const Value& b, Budget& budget);
// -1, 0 or 1; throws TypeError naming `op` when the types have no order.
int order(const Value& a, const Value& b, const char* op, Budget& budget);
// Pays for work in proportion to a text, such as looking at its characters one by one or, cheaper,
// comparing its bytes; other values pay element by element.
void pay_to_read(const Value& value, Budget& budget);
void pay_to_read(const CallArguments& arguments, Budget& budget);
void pay_to_compare(const Value& value, Budget& budget);
// Throws TypeError for values that cannot be keys.
uint64_t hash_value(const Value& value, Budget& budget);
// Raises what an undefined value raises when it is used.
[[noreturn]] void fail_undefined(const Value& value);
[[noreturn]] void type_error(std::string message);

// Walks lists, tuples, dicts (keys), strings (characters), views, ranges and iterators; undefined
// is empty; throws TypeError for the rest.
std::shared_ptr<IteratorObject> iterate(const Value& value);
bool iterable(const Value& value);
// All of them; pays for them.
std::vector<Value> collect(Interpreter& interpreter, const Value& value);
// len(); nothing for values without length.
std::optional<int64_t> length(const Value& value);

}  // namespace engine::jinja
