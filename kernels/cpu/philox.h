// The counter-based generator of kernels/api/dropout.h, sixteen counters at a time.
#pragma once

#include "kernels/api/dropout.h"
#include "kernels/cpu/vector_math.h"

namespace engine::kernels::cpu {

inline constexpr int64_t kPhiloxBlock = 64;  // sixteen counters of four words

using U64x8 = uint64_t __attribute__((vector_size(64)));

struct PhiloxProduct {
  U32x16 high, low;
};

ENGINE_INLINE PhiloxProduct philox_multiply(U32x16 a, uint32_t b) {
#if defined(__AVX512F__)
  // maskz with all lanes: the plain intrinsic warns about its undefined operand in gcc 12
  const __m512i right = _mm512_set1_epi32(static_cast<int>(b));
  const U64x8 left = reinterpret_cast<U64x8>(a);
  const auto wide = [&](U64x8 v) {
    return reinterpret_cast<U64x8>(
        _mm512_maskz_mul_epu32(0xFF, reinterpret_cast<__m512i>(v), right));
  };
  const U32x16 even = reinterpret_cast<U32x16>(wide(left));
  const U32x16 odd = reinterpret_cast<U32x16>(wide(left >> 32));
  return {
      __builtin_shufflevector(even, odd, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31),
      __builtin_shufflevector(even, odd, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14,
                              30)};
#else
  PhiloxProduct product;
  for (int i = 0; i < kLanes; ++i) {
    const uint64_t wide = uint64_t{a[i]} * b;
    product.high[i] = static_cast<uint32_t>(wide >> 32);
    product.low[i] = static_cast<uint32_t>(wide);
  }
  return product;
#endif
}

// Words [4·counter, 4·counter + 64) of the stream of philox4x32, in order. counter is a multiple
// of 16, so the low word never carries within the block.
struct PhiloxWords {
  U32x16 vector[4];
};
ENGINE_INLINE PhiloxWords philox_words(uint64_t seed, uint64_t counter) {
  // Lane 4l + j takes counter + 4j + l: then transposing each 4x4 block leaves words in order.
  constexpr U32x16 kOrder = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  U32x16 c0 = kOrder + static_cast<uint32_t>(counter);
  U32x16 c1 = U32x16{} + static_cast<uint32_t>(counter >> 32);
  U32x16 c2 = {}, c3 = {};
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const PhiloxProduct p0 = philox_multiply(c0, 0xD2511F53u);
    const PhiloxProduct p1 = philox_multiply(c2, 0xCD9E8D57u);
    c0 = p1.high ^ c1 ^ k0;
    c1 = p1.low;
    c2 = p0.high ^ c3 ^ k1;
    c3 = p0.low;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  const U32x16 low01 =
      __builtin_shufflevector(c0, c1, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
  const U32x16 high01 =
      __builtin_shufflevector(c0, c1, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  const U32x16 low23 =
      __builtin_shufflevector(c2, c3, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
  const U32x16 high23 =
      __builtin_shufflevector(c2, c3, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
  return {{__builtin_shufflevector(low01, low23, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13,
                                   28, 29),
           __builtin_shufflevector(low01, low23, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15,
                                   30, 31),
           __builtin_shufflevector(high01, high23, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13,
                                   28, 29),
           __builtin_shufflevector(high01, high23, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14,
                                   15, 30, 31)}};
}

}  // namespace engine::kernels::cpu
