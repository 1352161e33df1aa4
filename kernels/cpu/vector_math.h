// Sixteen floats at a time, on any instruction set: GCC's vector extension compiles to AVX-512
// where the machine has it and to narrower pieces elsewhere, with the same bits in every lane.
// Internals of all CPU kernels are fp32; bf16 exists only in memory.
//
//   for_vectors(count, [&](int64_t i, auto lanes) {
//     store(y + i, exp(load(x + i, lanes) - maximum), lanes);
//   });
//
// exp is within 1.1 units in the last place of the exact value, tanh, sigmoid and erf within 2.5,
// results that are subnormal included; NaN gives NaN, and infinities give the limit.
// tests/kernels/vector_math_test.cpp measures them over all exponents.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__AVX512BW__) && defined(__AVX512VL__)
#include <immintrin.h>
#endif

#include "kernels/api/types.h"

#define ENGINE_INLINE __attribute__((always_inline)) inline

namespace engine::kernels::cpu {

inline constexpr int64_t kLanes = 16;
using F32x16 = float __attribute__((vector_size(64)));
using I32x16 = int32_t __attribute__((vector_size(64)));
using U32x16 = uint32_t __attribute__((vector_size(64)));
using U16x16 = uint16_t __attribute__((vector_size(32)));

// Lanes of a load or store: all sixteen, or the first `count` (at the end of a row).
struct AllLanes {
  static constexpr int64_t count = kLanes;
};
struct FirstLanes {
  int64_t count;
};

// Calls body(i, lanes) for i = 0, 16, 32, ... with FirstLanes for the remainder.
template <typename Body>
ENGINE_INLINE void for_vectors(int64_t count, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) body(i, AllLanes{});
  if (i < count) body(i, FirstLanes{count - i});
}

ENGINE_INLINE F32x16 splat(float v) {
  return F32x16{v, v, v, v, v, v, v, v, v, v, v, v, v, v, v, v};
}

ENGINE_INLINE F32x16 bits_to_float(U32x16 bits) {
  return reinterpret_cast<F32x16>(bits);
}
ENGINE_INLINE U32x16 float_to_bits(F32x16 value) {
  return reinterpret_cast<U32x16>(value);
}

// Zero extension and truncation: gcc 12 splits __builtin_convertvector into halves, at four
// instructions for one. (All-ones masks are the plain instructions, of which it warns.)
ENGINE_INLINE U32x16 widen(U16x16 bits) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  return reinterpret_cast<U32x16>(
      _mm512_maskz_cvtepu16_epi32(0xffff, reinterpret_cast<__m256i>(bits)));
#else
  return __builtin_convertvector(bits, U32x16);
#endif
}
ENGINE_INLINE U16x16 narrow(U32x16 bits) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  return reinterpret_cast<U16x16>(
      _mm512_maskz_cvtepi32_epi16(0xffff, reinterpret_cast<__m512i>(bits)));
#else
  return __builtin_convertvector(bits, U16x16);
#endif
}

// Rounds as BFloat16's constructor does: to nearest even, subnormals kept, NaN quiet. (The
// instruction vcvtneps2bf16 flushes subnormals, so it is not used.)
ENGINE_INLINE U16x16 to_bf16_bits(F32x16 value) {
  const U32x16 bits = float_to_bits(value);
  const U32x16 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const U32x16 quiet_nan = (bits >> 16) | 0x40u;
  const U32x16 result = (bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded;
  return narrow(result);
}
ENGINE_INLINE F32x16 from_bf16_bits(U16x16 bits) {
  return bits_to_float(widen(bits) << 16);
}

ENGINE_INLINE F32x16 load(const float* p, AllLanes = {}) {
  F32x16 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
ENGINE_INLINE F32x16 load(const BFloat16* p, AllLanes = {}) {
  U16x16 bits;
  std::memcpy(&bits, p, sizeof bits);
  return from_bf16_bits(bits);
}
ENGINE_INLINE void store(float* p, F32x16 v, AllLanes = {}) {
  std::memcpy(p, &v, sizeof v);
}
ENGINE_INLINE void store(BFloat16* p, F32x16 v, AllLanes = {}) {
  const U16x16 bits = to_bf16_bits(v);
  std::memcpy(p, &bits, sizeof bits);
}

// Lanes past the count read as zero, and are not written.
#if defined(__AVX512BW__) && defined(__AVX512VL__)
ENGINE_INLINE __mmask16 mask_of(FirstLanes lanes) {
  return static_cast<__mmask16>((1u << lanes.count) - 1u);
}
ENGINE_INLINE F32x16 load(const float* p, FirstLanes lanes) {
  return reinterpret_cast<F32x16>(_mm512_maskz_loadu_ps(mask_of(lanes), p));
}
ENGINE_INLINE F32x16 load(const BFloat16* p, FirstLanes lanes) {
  return from_bf16_bits(reinterpret_cast<U16x16>(_mm256_maskz_loadu_epi16(mask_of(lanes), p)));
}
ENGINE_INLINE void store(float* p, F32x16 v, FirstLanes lanes) {
  _mm512_mask_storeu_ps(p, mask_of(lanes), reinterpret_cast<__m512>(v));
}
ENGINE_INLINE void store(BFloat16* p, F32x16 v, FirstLanes lanes) {
  _mm256_mask_storeu_epi16(p, mask_of(lanes), reinterpret_cast<__m256i>(to_bf16_bits(v)));
}
#else
template <typename T>
ENGINE_INLINE F32x16 load(const T* p, FirstLanes lanes) {
  T whole[kLanes];
  std::memset(whole, 0, sizeof whole);
  std::memcpy(whole, p, static_cast<size_t>(lanes.count) * sizeof(T));
  return load(whole);
}
template <typename T>
ENGINE_INLINE void store(T* p, F32x16 v, FirstLanes lanes) {
  T whole[kLanes];
  store(whole, v);
  std::memcpy(p, whole, static_cast<size_t>(lanes.count) * sizeof(T));
}
#endif

// Lanes past the count become `value`: before a maximum, or where zero is not neutral.
ENGINE_INLINE F32x16 fill_rest(F32x16 v, float, AllLanes) {
  return v;
}
ENGINE_INLINE F32x16 fill_rest(F32x16 v, float value, FirstLanes lanes) {
  const I32x16 index = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return index < static_cast<int32_t>(lanes.count) ? v : splat(value);
}

// x rounded to T and back: what a value stored as T is when read again.
template <typename T>
ENGINE_INLINE F32x16 round_to(F32x16 v) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return from_bf16_bits(to_bf16_bits(v));
  } else {
    return v;
  }
}

// Sum and maximum of the lanes, in a fixed order (halves, quarters, ...).
ENGINE_INLINE float sum_of_lanes(F32x16 v) {
  float lane[kLanes];
  store(lane, v);
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  }
  return lane[0];
}
// NaN anywhere gives NaN or the maximum of the rest: callers that care test for NaN themselves.
ENGINE_INLINE float maximum_of_lanes(F32x16 v) {
  float lane[kLanes];
  store(lane, v);
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lane[i] = lane[i] > lane[i + width] ? lane[i] : lane[i + width];
  }
  return lane[0];
}

// a where a > b, else b; so a NaN in b propagates and a NaN in a does not.
ENGINE_INLINE F32x16 maximum(F32x16 a, F32x16 b) {
  return a > b ? a : b;
}

ENGINE_INLINE F32x16 absolute(F32x16 x) {
  return bits_to_float(float_to_bits(x) & 0x7fffffffu);
}
// |magnitude| with the sign of `sign`; magnitude must not be negative.
ENGINE_INLINE F32x16 with_sign_of(F32x16 magnitude, F32x16 sign) {
  return bits_to_float(float_to_bits(magnitude) | (float_to_bits(sign) & 0x80000000u));
}

namespace detail {

// x = n·ln2 + r with |r| <= ln2/2, and expm1(r). Needs |x| < 1000 or NaN.
struct ExpParts {
  I32x16 n;
  F32x16 n_float, expm1_r;
};
ENGINE_INLINE ExpParts exp_parts(F32x16 x) {
  constexpr float kMagic = 12582912.0f;  // 1.5·2^23: adding it rounds to an integer
  const F32x16 shifted = x * 1.44269504088896341f + kMagic;
  const F32x16 n = shifted - kMagic;
  // ln2 in two pieces, the first with enough trailing zeros for n·first to be exact
  const F32x16 r = (x - n * 0.693145751953125f) - n * 1.42860682030941723212e-6f;
  // minimax of (exp(r) - 1 - r)/r² on ±ln2/2, fitted for this file; relative error 3.2e-9
  F32x16 p = splat(1.395059982e-3f);
  p = p * r + 8.368954062e-3f;
  p = p * r + 4.166620597e-2f;
  p = p * r + 1.666651815e-1f;
  p = p * r + 0.5f;
  const I32x16 n_integer = reinterpret_cast<I32x16>(shifted) - std::bit_cast<int32_t>(kMagic);
  return {n_integer, n, (p * r) * r + r};
}
ENGINE_INLINE F32x16 power_of_two(I32x16 n) {
  return reinterpret_cast<F32x16>((n + 127) << 23);
}

}  // namespace detail

ENGINE_INLINE F32x16 exp(F32x16 x) {
  x = x > 90.0f ? splat(90.0f) : x;  // gives inf
  x = x < -105.0f ? splat(-105.0f) : x;
  const detail::ExpParts parts = detail::exp_parts(x);
  const I32x16 half = parts.n >> 1;  // two factors, so that results may overflow or be subnormal
  return (parts.expm1_r + 1.0f) * detail::power_of_two(half) * detail::power_of_two(parts.n - half);
}

ENGINE_INLINE F32x16 sigmoid(F32x16 x) {
  const F32x16 e = exp(bits_to_float(float_to_bits(x) | 0x80000000u));  // exp(-|x|)
  return (x < 0.0f ? e : splat(1.0f)) / (e + 1.0f);
}

ENGINE_INLINE F32x16 tanh(F32x16 x) {
  F32x16 a = absolute(x);
  a = a > 10.0f ? splat(10.0f) : a;
  // tanh a = expm1(2a) / (expm1(2a) + 2), which loses nothing near zero
  const detail::ExpParts parts = detail::exp_parts(a + a);
  const F32x16 scale = detail::power_of_two(parts.n);
  const F32x16 e = scale * parts.expm1_r + (scale - 1.0f);
  return with_sign_of(e / (e + 2.0f), x);
}

ENGINE_INLINE F32x16 erf(F32x16 x) {
  F32x16 a = absolute(x);
  a = a > 4.0f ? splat(4.0f) : a;  // erf(4) rounds to 1
  // erf(a)/a - 1 in a² on [0, 0.95], fitted for this file; error 6e-10
  const F32x16 u = a * a;
  F32x16 p = splat(8.215423441e-5f);
  p = p * u - 8.105965098e-4f;
  p = p * u + 5.197796971e-3f;
  p = p * u - 2.685810439e-2f;
  p = p * u + 1.128367260e-1f;
  p = p * u - 3.761263192e-1f;
  p = p * u + 0.128379226f;
  // log erfc(a) on [0.93, 4], fitted with weight erfc(a); error of erf 4e-11
  F32x16 q = splat(-2.129013592e-5f);
  q = q * a + 4.367071670e-4f;
  q = q * a - 4.181885161e-3f;
  q = q * a + 2.514778636e-2f;
  q = q * a - 1.083237305e-1f;
  q = q * a - 6.333074570e-1f;
  q = q * a - 1.129534364f;
  q = q * a + 1.787071233e-4f;
  const F32x16 result = a < 0.94f ? p * a + a : 1.0f - exp(q);
  return with_sign_of(result, x);
}

ENGINE_INLINE F32x16 square_root(F32x16 x) {
#if defined(__AVX512F__)
  // maskz with all lanes: the plain intrinsic warns about its undefined operand in gcc 12
  return reinterpret_cast<F32x16>(_mm512_maskz_sqrt_ps(0xFFFF, reinterpret_cast<__m512>(x)));
#else
  F32x16 result;
  for (int i = 0; i < kLanes; ++i) result[i] = __builtin_sqrtf(x[i]);
  return result;
#endif
}

// One value, through the same code: equal bits to any lane above.
ENGINE_INLINE float exp(float x) {
  return exp(splat(x))[0];
}

}  // namespace engine::kernels::cpu
