// Dropout from a counter-based generator: no mask is stored, the backward draws it again.
//
//   keep(i) = uniform(seed, i) >= p;   y[i] = keep(i) ? x[i] / (1 - p) : 0
// uniform(seed, i) is word i mod 4 of Philox4x32-10 (Salmon et al. 2011) with key = seed and
// counter = i / 4, as a fraction of 2^32 of its upper 24 bits. The backward is the same function
// applied to dy. The result depends on nothing but seed and index.
#pragma once

#include "kernels/api/types.h"

namespace engine::kernels {

struct Dropout {
  int64_t count = 0;
  const void* x = nullptr;
  void* y = nullptr;  // may be x
  float p = 0.0f;     // probability of dropping, 0 <= p < 1
  Scalar<uint64_t> seed;
  uint64_t offset = 0;  // index of x[0]
  DType dtype = DType::f32;
};

// Philox4x32-10: four words from a 128-bit counter (low 64 bits used) and a 64-bit key.
struct Philox4 {
  uint32_t word[4];
};
constexpr Philox4 philox4x32(uint64_t seed, uint64_t counter) {
  uint32_t c[4] = {static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32), 0, 0};
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c[2];
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1;
    c[0] = n0;
    c[1] = static_cast<uint32_t>(p1);
    c[2] = n2;
    c[3] = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c[0], c[1], c[2], c[3]}};
}

// A fraction in [0, 1) with 24 bits.
constexpr float uniform_from_bits(uint32_t word) {
  return static_cast<float>(word >> 8) * (1.0f / 16777216.0f);
}

constexpr float philox_uniform(uint64_t seed, uint64_t index) {
  return uniform_from_bits(philox4x32(seed, index / 4).word[index % 4]);
}

}  // namespace engine::kernels
