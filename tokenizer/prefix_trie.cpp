#include "tokenizer/prefix_trie.h"

#include <algorithm>
#include <bit>
#include <stdexcept>

namespace engine::tokenizer {

class PrefixTrie::Builder {
 public:
  Builder(PrefixTrie& trie, const std::vector<std::pair<std::string_view, int32_t>>& keys)
      : trie_(trie), keys_(keys) {}

  void build() {
    add_block();
    free_[0].remove(kRoot);
    struct Range {
      size_t begin, end, depth;
      uint32_t node;
    };
    std::vector<Range> waiting = {{0, keys_.size(), 0, kRoot}};
    std::vector<unsigned char> labels;
    while (!waiting.empty()) {
      Range range = waiting.back();
      waiting.pop_back();
      if (range.begin < range.end && keys_[range.begin].first.size() == range.depth) {
        trie_.values_[range.node] = keys_[range.begin].second;
        ++range.begin;
      }
      if (range.begin == range.end) {
        // Children of a leaf would lie in its own block; none of them names it as parent.
        trie_.units_[range.node].base = range.node & ~uint32_t{255};
        continue;
      }
      labels.clear();
      const auto label = [&](size_t key) {
        return static_cast<unsigned char>(keys_[key].first[range.depth]);
      };
      for (size_t i = range.begin; i < range.end; ++i) {
        if (labels.empty() || labels.back() != label(i)) labels.push_back(label(i));
      }
      const uint32_t base = find_base(labels);
      trie_.units_[range.node].base = base;
      for (const unsigned char byte : labels) trie_.units_[base ^ byte].parent = range.node;
      for (size_t begin = range.begin; begin < range.end;) {
        size_t end = begin + 1;
        while (end < range.end && label(end) == label(begin)) ++end;
        waiting.push_back({begin, end, range.depth + 1, base ^ label(begin)});
        begin = end;
      }
    }
  }

 private:
  // A base at which all `labels` find free units. Only the newest blocks are searched: older ones
  // are nearly full, and searching them over and over would be quadratic.
  uint32_t find_base(const std::vector<unsigned char>& labels) {
    constexpr size_t kOpenBlocks = 8;
    for (size_t b = free_.size() - std::min(kOpenBlocks, free_.size()); b < free_.size(); ++b) {
      if (free_[b].size < labels.size()) continue;
      for (uint32_t word = 0; word < 4; ++word) {
        for (uint64_t left = free_[b].bits[word]; left != 0; left &= left - 1) {
          const uint32_t unit = word * 64 + static_cast<uint32_t>(std::countr_zero(left));
          const uint32_t base = unit ^ labels[0];
          const bool fits = std::all_of(labels.begin(), labels.end(), [&](unsigned char byte) {
            return free_[b].has(base ^ byte);
          });
          if (fits) return take(b, base, labels);
        }
      }
    }
    add_block();
    return take(free_.size() - 1, 0, labels);
  }

  uint32_t take(size_t block, uint32_t base, const std::vector<unsigned char>& labels) {
    for (const unsigned char byte : labels) free_[block].remove(base ^ byte);
    return static_cast<uint32_t>(block) * 256 + base;
  }

  void add_block() {
    if (trie_.units_.size() > UINT32_MAX / 2) throw std::logic_error("trie is too large");
    trie_.units_.resize(trie_.units_.size() + 256);
    trie_.values_.resize(trie_.values_.size() + 256, -1);
    free_.emplace_back();
  }

  // The free units of a block.
  struct FreeUnits {
    uint64_t bits[4] = {~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}};
    uint32_t size = 256;
    bool has(uint32_t unit) const { return bits[unit / 64] >> (unit % 64) & 1; }
    void remove(uint32_t unit) {
      bits[unit / 64] &= ~(uint64_t{1} << (unit % 64));
      --size;
    }
  };

  PrefixTrie& trie_;
  const std::vector<std::pair<std::string_view, int32_t>>& keys_;
  std::vector<FreeUnits> free_;  // by block
};

PrefixTrie::PrefixTrie(std::vector<std::pair<std::string_view, int32_t>> keys) {
  std::sort(keys.begin(), keys.end());
  for (size_t i = 1; i < keys.size(); ++i) {
    if (keys[i].first == keys[i - 1].first) throw std::logic_error("a key stands twice in a trie");
  }
  Builder(*this, keys).build();
}

}  // namespace engine::tokenizer
