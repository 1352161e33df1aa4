// Variables of a running template.
#pragma once

#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "tokenizer/chat/jinja/ast.h"
#include "tokenizer/chat/jinja/value.h"

namespace engine::jinja {

// The variables of a block, and of the blocks around it. Every pass through a loop and every call
// has one of its own.
class Scope {
 public:
  // `unset`: what the block begins with. Pays for them.
  Scope(std::shared_ptr<Scope> parent, const UnsetNames& unset, Budget& budget);

  // Here or further out; null when it is nowhere.
  const Value* find(int32_t symbol) const;
  void set(int32_t symbol, Value value);
  void clear();  // frees the values

 private:
  // Place among the variables, or their number.
  size_t place(int32_t symbol) const;
  void add_to_index(size_t first);

  std::shared_ptr<Scope> parent_;
  std::vector<std::pair<int32_t, Value>> variables_;
  std::unique_ptr<std::unordered_map<int32_t, size_t>> index_;  // of many variables: their places
};

}  // namespace engine::jinja
