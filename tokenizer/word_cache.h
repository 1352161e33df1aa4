// Remembers the ids of short pieces.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

#include "tokenizer/vocabulary.h"

namespace engine::tokenizer {

// Direct-mapped, one cache line per entry: natural text repeats a few thousand words, and a miss
// costs no more than the work it would have saved.
class WordCache {
 public:
  static constexpr size_t kMaxBytes = 26;
  static constexpr size_t kMaxIds = 8;

  WordCache() : entries_(size_t{1} << kBits) {}

  // Appends the ids of `piece`, taken from the cache or from `encode(piece, ids)`.
  template <typename Encode>
  void lookup(std::string_view piece, std::vector<int32_t>* ids, Encode encode) {
    if (piece.size() > kMaxBytes) return encode(piece, ids);
    const uint64_t hash = hash_bytes(piece);
    Entry& entry = entries_[hash >> (64 - kBits)];
    if (entry.hash == static_cast<uint32_t>(hash) && entry.num_bytes == piece.size() &&
        std::memcmp(entry.bytes, piece.data(), piece.size()) == 0) {
      ids->insert(ids->end(), entry.ids, entry.ids + entry.num_ids);
      return;
    }
    const size_t before = ids->size();
    encode(piece, ids);
    const size_t num_ids = ids->size() - before;
    if (num_ids > kMaxIds) return;
    entry.hash = static_cast<uint32_t>(hash);
    entry.num_bytes = static_cast<uint8_t>(piece.size());
    entry.num_ids = static_cast<uint8_t>(num_ids);
    std::memcpy(entry.bytes, piece.data(), piece.size());
    std::copy_n(ids->data() + before, num_ids, entry.ids);
  }

 private:
  static constexpr int kBits = 15;
  struct alignas(64) Entry {
    uint32_t hash = 0;
    uint8_t num_bytes = 0;  // 0 = free: no piece is empty
    uint8_t num_ids = 0;
    char bytes[kMaxBytes];
    int32_t ids[kMaxIds];
  };
  static_assert(sizeof(Entry) == 64);

  std::vector<Entry> entries_;
};

}  // namespace engine::tokenizer
