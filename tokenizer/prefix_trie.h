// A set of byte strings with values, walked byte by byte: finds all members that begin at a place
// of a text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace engine::tokenizer {

// A double array (Aoe 1989): a step is one look at one 8-byte unit. Units of the children of a node
// lie at `base ^ byte`, in one block of 256, so that they share cache lines.
class PrefixTrie {
 public:
  static constexpr uint32_t kRoot = 0;
  static constexpr uint32_t kNone = UINT32_MAX;

  PrefixTrie() = default;
  // Keys are distinct and not empty; values are not negative. Takes time linear in the bytes of the
  // keys but for the sorting.
  explicit PrefixTrie(std::vector<std::pair<std::string_view, int32_t>> keys);

  bool empty() const { return units_.empty(); }

  // The node reached from `node` by `byte`, or kNone.
  uint32_t step(uint32_t node, char byte) const {
    const uint32_t child = units_[node].base ^ static_cast<unsigned char>(byte);
    return units_[child].parent == node ? child : kNone;
  }
  // The value of the key that ends at `node`, or -1.
  int32_t value(uint32_t node) const { return values_[node]; }

  // Calls found(length, value) for every key that `text` begins with, shortest first.
  template <typename Found>
  void for_each_prefix(std::string_view text, Found found) const {
    if (empty()) return;
    uint32_t node = kRoot;
    for (size_t i = 0; i < text.size(); ++i) {
      node = step(node, text[i]);
      if (node == kNone) return;
      if (values_[node] >= 0) found(i + 1, values_[node]);
    }
  }

  // Length of the longest key that `text` begins with, 0 if there is none.
  size_t longest_prefix(std::string_view text) const {
    size_t longest = 0;
    for_each_prefix(text, [&](size_t length, int32_t) { longest = length; });
    return longest;
  }

 private:
  struct Unit {
    uint32_t base = 0;
    uint32_t parent = kNone;  // of the root and of free units: nobody's child
  };
  class Builder;

  std::vector<Unit> units_;
  std::vector<int32_t> values_;  // by unit
};

}  // namespace engine::tokenizer
