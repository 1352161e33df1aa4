#include "tokenizer/vocabulary.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

namespace engine::tokenizer {

uint64_t hash_bytes(std::string_view bytes) {
  constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15u;
  uint64_t hash = bytes.size() * kMultiplier;
  const auto mix = [&](uint64_t word) {
    hash = (hash ^ word) * kMultiplier;
    hash ^= hash >> 29;
  };
  const char* at = bytes.data();
  size_t left = bytes.size();
  for (; left >= 8; at += 8, left -= 8) {
    uint64_t word;
    std::memcpy(&word, at, 8);
    mix(word);
  }
  if (left > 0) {
    uint64_t word = 0;
    std::memcpy(&word, at, left);
    mix(word);
  }
  return hash ^ hash >> 32;
}

void Vocabulary::reserve(size_t num_tokens, size_t num_bytes) {
  bytes_.reserve(num_bytes);
  entries_.reserve(num_tokens);
  rehash(std::bit_ceil(std::max<size_t>(16, num_tokens * 2)));
}

void Vocabulary::rehash(size_t num_slots) {
  if (num_slots <= slots_.size()) return;
  slots_.assign(num_slots, Slot());
  for (int32_t id = 0; id < id_limit(); ++id) {
    if (!contains_id(id)) continue;
    const uint64_t hash = hash_bytes(token(id));
    size_t slot = hash & (num_slots - 1);
    while (slots_[slot].id >= 0) slot = (slot + 1) & (num_slots - 1);
    slots_[slot] = {id, static_cast<uint32_t>(hash >> 32)};
  }
}

// The slot of `token`, or the free one where it would go. There is one.
size_t Vocabulary::find_slot(std::string_view token, uint64_t hash) const {
  const size_t mask = slots_.size() - 1;
  const uint32_t tag = static_cast<uint32_t>(hash >> 32);
  size_t slot = hash & mask;
  while (slots_[slot].id >= 0 &&
         (slots_[slot].hash != tag || this->token(slots_[slot].id) != token)) {
    slot = (slot + 1) & mask;
  }
  return slot;
}

Vocabulary::Added Vocabulary::add(std::string_view token, int32_t id) {
  if ((size_ + 1) * 2 > slots_.size()) rehash(std::max<size_t>(16, slots_.size() * 2));
  if (contains_id(id)) return Added::kDuplicateId;
  const uint64_t hash = hash_bytes(token);
  Slot& slot = slots_[find_slot(token, hash)];
  if (slot.id >= 0) return Added::kDuplicateToken;
  slot = {id, static_cast<uint32_t>(hash >> 32)};
  if (static_cast<size_t>(id) >= entries_.size()) entries_.resize(static_cast<size_t>(id) + 1);
  entries_[id] = {static_cast<uint32_t>(bytes_.size()), static_cast<uint32_t>(token.size())};
  bytes_ += token;
  ++size_;
  return Added::kYes;
}

int32_t Vocabulary::find(std::string_view token) const {
  return slots_.empty() ? -1 : slots_[find_slot(token, hash_bytes(token))].id;
}

void Vocabulary::find_many(std::span<const std::string_view> tokens, std::span<int32_t> ids) const {
  if (slots_.empty()) {
    std::fill(ids.begin(), ids.end(), -1);
    return;
  }
  constexpr size_t kBatch = 32;
  const size_t mask = slots_.size() - 1;
  std::array<uint64_t, kBatch> hashes;
  for (size_t begin = 0; begin < tokens.size(); begin += kBatch) {
    const size_t size = std::min(kBatch, tokens.size() - begin);
    for (size_t i = 0; i < size; ++i) {
      hashes[i] = hash_bytes(tokens[begin + i]);
      __builtin_prefetch(&slots_[hashes[i] & mask]);
    }
    for (size_t i = 0; i < size; ++i) {
      const int32_t id = slots_[hashes[i] & mask].id;
      if (id >= 0) __builtin_prefetch(&entries_[id]);
    }
    for (size_t i = 0; i < size; ++i) {
      const int32_t id = slots_[hashes[i] & mask].id;
      if (id >= 0) __builtin_prefetch(bytes_.data() + entries_[id].offset);
    }
    for (size_t i = 0; i < size; ++i) {
      ids[begin + i] = slots_[find_slot(tokens[begin + i], hashes[i])].id;
    }
  }
}

}  // namespace engine::tokenizer
