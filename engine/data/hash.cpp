#include "engine/data/hash.h"

#include <bit>
#include <cstdio>
#include <cstring>

namespace engine {
namespace {

static_assert(std::endian::native == std::endian::little, "cached data is little-endian");

constexpr uint64_t kPrime1 = 0x9e3779b185ebca87u, kPrime2 = 0xc2b2ae3d27d4eb4fu,
                   kPrime3 = 0x165667b19e3779f9u, kPrime4 = 0x85ebca77c2b2ae63u,
                   kPrime5 = 0x27d4eb2f165667c5u;
constexpr std::array<uint64_t, 2> kSeeds = {0, 0x9e3779b97f4a7c15u};

uint64_t load64(const unsigned char* p) {
  uint64_t word;
  std::memcpy(&word, p, sizeof word);
  return word;
}

uint64_t load32(const unsigned char* p) {
  uint32_t word;
  std::memcpy(&word, p, sizeof word);
  return word;
}

uint64_t round64(uint64_t lane, uint64_t word) {
  return std::rotl(lane + word * kPrime2, 31) * kPrime1;
}

uint64_t finish64(const std::array<uint64_t, 4>& lanes, uint64_t seed, uint64_t total,
                  const unsigned char* tail, size_t tail_size) {
  uint64_t hash = seed + kPrime5;
  if (total >= 32) {
    hash = std::rotl(lanes[0], 1) + std::rotl(lanes[1], 7) + std::rotl(lanes[2], 12) +
           std::rotl(lanes[3], 18);
    for (uint64_t lane : lanes) hash = (hash ^ round64(0, lane)) * kPrime1 + kPrime4;
  }
  hash += total;
  for (; tail_size >= 8; tail += 8, tail_size -= 8) {
    hash = std::rotl(hash ^ round64(0, load64(tail)), 27) * kPrime1 + kPrime4;
  }
  if (tail_size >= 4) {
    hash = std::rotl(hash ^ (load32(tail) * kPrime1), 23) * kPrime2 + kPrime3;
    tail += 4;
    tail_size -= 4;
  }
  for (; tail_size > 0; ++tail, --tail_size) {
    hash = std::rotl(hash ^ (*tail * kPrime5), 11) * kPrime1;
  }
  hash = (hash ^ (hash >> 33)) * kPrime2;
  hash = (hash ^ (hash >> 29)) * kPrime3;
  return hash ^ (hash >> 32);
}

}  // namespace

std::string Hash128::hex() const {
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(high),
                static_cast<unsigned long long>(low));
  return text;
}

Hasher::Hasher() {
  for (size_t pass = 0; pass < lanes_.size(); ++pass) {
    const uint64_t seed = kSeeds[pass];
    lanes_[pass] = {seed + kPrime1 + kPrime2, seed + kPrime2, seed, seed - kPrime1};
  }
}

void Hasher::stripe(const unsigned char* block) {
  for (Lanes& lanes : lanes_) {
    for (size_t i = 0; i < 4; ++i) lanes[i] = round64(lanes[i], load64(block + 8 * i));
  }
}

void Hasher::update(const void* data, size_t size) {
  if (size == 0) return;
  const auto* bytes = static_cast<const unsigned char*>(data);
  total_ += size;
  if (num_pending_ > 0) {
    const size_t taken = std::min(size, pending_.size() - num_pending_);
    std::memcpy(pending_.data() + num_pending_, bytes, taken);
    num_pending_ += taken;
    bytes += taken;
    size -= taken;
    if (num_pending_ < pending_.size()) return;
    stripe(pending_.data());
    num_pending_ = 0;
  }
  for (; size >= 32; bytes += 32, size -= 32) stripe(bytes);
  std::memcpy(pending_.data(), bytes, size);
  num_pending_ = size;
}

void Hasher::add(std::string_view text) {
  add(static_cast<uint64_t>(text.size()));
  update(text.data(), text.size());
}

Hash128 Hasher::finish() const {
  return {finish64(lanes_[0], kSeeds[0], total_, pending_.data(), num_pending_),
          finish64(lanes_[1], kSeeds[1], total_, pending_.data(), num_pending_)};
}

Hash128 hash_bytes(const void* data, size_t size) {
  Hasher hasher;
  hasher.update(data, size);
  return hasher.finish();
}

}  // namespace engine
