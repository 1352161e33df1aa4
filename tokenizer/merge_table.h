// (left id, right id) -> what they merge to and how early.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

namespace engine::tokenizer {

struct Merge {
  static constexpr uint32_t kNone = UINT32_MAX;
  uint32_t rank = kNone;  // lower merges first
  int32_t id = -1;        // the merged token
};

class MergeTable {
 public:
  void reserve(size_t num_merges) { rehash(std::bit_ceil(num_merges * 2 + 16)); }

  // A pair given twice keeps the later entry.
  void insert(int32_t left, int32_t right, Merge merge) {
    if ((size_ + 1) * 2 > slots_.size()) rehash(slots_.empty() ? 16 : slots_.size() * 2);
    Slot& slot = slots_[find_slot(key(left, right))];
    if (slot.key == kFree) ++size_;
    slot = {key(left, right), merge};
  }

  // rank == Merge::kNone if the pair does not merge.
  Merge find(int32_t left, int32_t right) const {
    if (slots_.empty()) return {};
    return slots_[find_slot(key(left, right))].merge;
  }

 private:
  static constexpr uint64_t kFree = UINT64_MAX;
  struct Slot {
    uint64_t key = kFree;
    Merge merge;
  };

  static uint64_t key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t find_slot(uint64_t key) const {
    const size_t mask = slots_.size() - 1;
    size_t at = (key * 0x9E3779B97F4A7C15u) >> shift_;
    while (slots_[at].key != key && slots_[at].key != kFree) at = (at + 1) & mask;
    return at;
  }
  void rehash(size_t num_slots) {
    if (num_slots <= slots_.size()) return;
    std::vector<Slot> old = std::move(slots_);
    slots_.assign(num_slots, Slot());
    shift_ = 64 - std::countr_zero(num_slots);
    for (const Slot& slot : old) {
      if (slot.key != kFree) slots_[find_slot(slot.key)] = slot;
    }
  }

  std::vector<Slot> slots_;  // open addressing; a power of two, at most half full
  int shift_ = 0;
  size_t size_ = 0;
};

}  // namespace engine::tokenizer
