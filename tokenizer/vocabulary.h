// Token text <-> id: all texts in one string, ids found through an open-addressing hash.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace engine::tokenizer {

// A fast hash of short byte strings; not stable between versions.
uint64_t hash_bytes(std::string_view bytes);

class Vocabulary {
 public:
  // Ids beyond this are refused by the loaders: a table indexed by id must stay small.
  static constexpr int64_t kMaxId = (1 << 24) - 1;

  void reserve(size_t num_tokens, size_t num_bytes);

  enum class Added { kYes, kDuplicateToken, kDuplicateId };
  // 0 <= id <= kMaxId.
  Added add(std::string_view token, int32_t id);

  // The id of `token`, or -1.
  int32_t find(std::string_view token) const;
  // ids[i] = find(tokens[i]). Several times faster than one by one where the vocabulary does not
  // fit into the cache, because its memory is asked for ahead.
  void find_many(std::span<const std::string_view> tokens, std::span<int32_t> ids) const;
  bool contains_id(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < entries_.size() && entries_[id].length != kHole;
  }
  // The text of `id`, which must be contained.
  std::string_view token(int32_t id) const {
    return std::string_view(bytes_).substr(entries_[id].offset, entries_[id].length);
  }
  // Number of tokens, and one more than the largest id.
  size_t size() const { return size_; }
  int32_t id_limit() const { return static_cast<int32_t>(entries_.size()); }

 private:
  static constexpr uint32_t kHole = UINT32_MAX;
  struct Entry {
    uint32_t offset = 0;
    uint32_t length = kHole;
  };
  void rehash(size_t num_slots);
  size_t find_slot(std::string_view token, uint64_t hash) const;

  std::string bytes_;
  std::vector<Entry> entries_;  // by id
  // Open addressing: a power of two, at most half full. Most misses end at the 32 bits of the hash,
  // without a look at the texts.
  struct Slot {
    int32_t id = -1;  // -1 = free
    uint32_t hash = 0;
  };
  std::vector<Slot> slots_;
  size_t size_ = 0;
};

}  // namespace engine::tokenizer
