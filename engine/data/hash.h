// A 128-bit hash for naming and checking cached data: two XXH64 passes (Yann Collet) with different
// seeds, in one reading. It finds accidents; it is no defence against somebody who wants a
// collision.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace engine {

struct Hash128 {
  uint64_t low = 0;   // XXH64, seed 0
  uint64_t high = 0;  // XXH64, seed 0x9e3779b97f4a7c15

  std::string hex() const;  // 32 lower-case digits, high first
  auto operator<=>(const Hash128&) const = default;
};

// The result depends on the bytes only, not on the pieces in which they come.
class Hasher {
 public:
  Hasher();
  void update(const void* data, size_t size);
  // A string with its length before it, so that {"ab", "c"} and {"a", "bc"} differ.
  void add(std::string_view text);
  void add(uint64_t value) { update(&value, sizeof value); }
  Hash128 finish() const;

 private:
  using Lanes = std::array<uint64_t, 4>;
  void stripe(const unsigned char* block);

  std::array<Lanes, 2> lanes_;
  std::array<unsigned char, 32> pending_{};
  size_t num_pending_ = 0;
  uint64_t total_ = 0;
};

Hash128 hash_bytes(const void* data, size_t size);

// A bijection of 64-bit words that spreads every input bit (finaliser of SplitMix64).
constexpr uint64_t mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace engine
