// The variable `loop`, and the helpers cycler and joiner.
#pragma once

#include <memory>
#include <optional>

#include "tokenizer/chat/jinja/ast.h"
#include "tokenizer/chat/jinja/value.h"

namespace engine::jinja {

class Scope;

// Reads ahead only when asked: `last` and `nextitem` one element, `length` of an iterator all.
struct LoopObject final : Object {
  // Moves on; false at the end.
  bool advance();
  const std::optional<Value>& peek();
  int64_t count();

  Interpreter* interpreter = nullptr;
  Value iterable;
  std::shared_ptr<IteratorObject> source;
  std::vector<Value> read_ahead;  // by count(), in order
  size_t read_ahead_at = 0;
  int64_t index0 = -1;
  int64_t depth0 = 0;
  std::optional<Value> before, current, after;
  std::optional<int64_t> known_count;
  std::optional<Value> last_changed;
  // Of a recursive loop: what calling `loop` does again, and where.
  const Statement* statement = nullptr;
  std::shared_ptr<Scope> scope;

 private:
  std::optional<Value> pull();
};

struct CyclerObject final : Object {
  std::vector<Value> items;  // not empty
  size_t at = 0;
};

// loop.index and its kind.
std::optional<Value> loop_property(const Value& loop, std::string_view name);

}  // namespace engine::jinja
