#include "tokenizer/chat/jinja/loop.h"

#include "tokenizer/chat/jinja/interpreter.h"

namespace engine::jinja {

std::optional<Value> LoopObject::pull() {
  if (read_ahead_at < read_ahead.size()) return read_ahead[read_ahead_at++];
  return source->next(*interpreter);
}

bool LoopObject::advance() {
  std::optional<Value> next = after ? std::exchange(after, std::nullopt) : pull();
  if (!next) return false;
  ++index0;
  hold(*this, *next);
  before = std::exchange(current, std::move(next));
  return true;
}

const std::optional<Value>& LoopObject::peek() {
  if (!after) after = pull();
  return after;
}

int64_t LoopObject::count() {
  if (known_count) return *known_count;
  known_count = length(iterable);
  if (!known_count) {
    while (std::optional<Value> next = source->next(*interpreter)) {
      interpreter->budget().take(sizeof(Value));
      read_ahead.push_back(*std::move(next));
    }
    known_count = static_cast<int64_t>(read_ahead.size()) + index0 + 1 + after.has_value();
  }
  return *known_count;
}

std::optional<Value> loop_property(const Value& value, std::string_view name) {
  auto& loop = value.get<LoopObject>();
  if (name == "index0") return Value::integer(loop.index0);
  if (name == "index") return Value::integer(loop.index0 + 1);
  if (name == "first") return Value::boolean(loop.index0 == 0);
  if (name == "last") return Value::boolean(!loop.peek());
  if (name == "length") return Value::integer(loop.count());
  if (name == "revindex0") return Value::integer(loop.count() - loop.index0 - 1);
  if (name == "revindex") return Value::integer(loop.count() - loop.index0);
  if (name == "depth0") return Value::integer(loop.depth0);
  if (name == "depth") return Value::integer(loop.depth0 + 1);
  if (name == "previtem") {
    return loop.index0 == 0 ? Value::undefined("there is no previous item") : *loop.before;
  }
  if (name == "nextitem") {
    const std::optional<Value>& next = loop.peek();
    return next ? *next : Value::undefined("there is no next item");
  }
  return std::nullopt;
}

}  // namespace engine::jinja
