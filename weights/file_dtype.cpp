#include "weights/file_dtype.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

#ifdef __F16C__
#include <immintrin.h>
#endif

namespace engine {

namespace {

struct DtypeInfo {
  std::string_view name;
  int bits;
};

constexpr std::array<DtypeInfo, kFileDtypeCount> kDtypes = {{
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64},
}};

// ---- one element --------------------------------------------------------------------------------

uint16_t bfloat16_bits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return static_cast<uint16_t>(is_nan ? (bits >> 16) | 0x40u : rounded);
}

// Rounds towards the neighbour with an odd last bit, so that rounding the result once more, to a
// type at least two bits narrower, gives what rounding `value` directly would give.
float round_to_odd(double value) {
  const float nearest = static_cast<float>(value);
  uint32_t bits = std::bit_cast<uint32_t>(nearest);
  if (std::fabs(static_cast<double>(nearest)) > std::fabs(value)) bits -= 1;
  if (static_cast<double>(nearest) != value) bits |= 1;
  return std::bit_cast<float>(bits);
}

float float_from_half(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  // As an fp32 with the same exponent field the value is 2^112 too small; the product is exact and
  // also right for subnormals.
  const float scaled = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  uint32_t bits = std::bit_cast<uint32_t>(scaled);
  if (magnitude >= 0x7c00u)
    bits = 0x7f800000u | (magnitude << 13) | (magnitude > 0x7c00u ? 0x400000u : 0);
  return std::bit_cast<float>(sign | bits);
}

uint16_t half_from_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  }
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and above
  if (magnitude < 0x38800000u) {
    // Subnormal half: adding 0.5 leaves the value, rounded to 2^-24, in the low bits.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

// ---- arrays -------------------------------------------------------------------------------------

// Runs convert(begin, end) over [0, count), in parallel when that is worth starting threads.
template <typename Convert>
void in_pieces(size_t count, const Convert& convert) {
  constexpr size_t kPiece = size_t{1} << 18;
  const int64_t pieces = static_cast<int64_t>((count + kPiece - 1) / kPiece);
#pragma omp parallel for schedule(static) if (pieces > 4)
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const size_t begin = static_cast<size_t>(piece) * kPiece;
    convert(begin, std::min(count, begin + kPiece));
  }
}

// destination[i] = function(source[i]); both may have any alignment. The function is a type, not a
// pointer, so that the loop is compiled around it and vectorised.
template <typename From, typename To, typename Function>
void map_elements(const void* source, size_t count, void* destination, Function function) {
  static_assert(std::is_class_v<Function>);
  in_pieces(count, [=](size_t begin, size_t end) {
    const char* __restrict from = static_cast<const char*>(source) + begin * sizeof(From);
    char* __restrict to = static_cast<char*>(destination) + begin * sizeof(To);
    for (size_t i = 0; i < end - begin; ++i) {
      From value;
      std::memcpy(&value, from + i * sizeof(From), sizeof(From));
      const To result = function(value);
      std::memcpy(to + i * sizeof(To), &result, sizeof(To));
    }
  });
}

void floats_from_halves(const void* source, size_t count, float* destination) {
#ifdef __F16C__
  const char* from = static_cast<const char*>(source);
  in_pieces(count, [=](size_t begin, size_t end) {
    size_t i = begin;
    for (; i + 8 <= end; i += 8) {
      const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 2 * i));
      _mm256_storeu_ps(destination + i, _mm256_cvtph_ps(halves));
    }
    for (; i < end; ++i) {
      uint16_t half;
      std::memcpy(&half, from + 2 * i, 2);
      destination[i] = float_from_half(half);
    }
  });
#else
  map_elements<uint16_t, float>(source, count, destination,
                                [](uint16_t value) { return float_from_half(value); });
#endif
}

void halves_from_floats(const float* source, size_t count, void* destination) {
#ifdef __F16C__
  char* to = static_cast<char*>(destination);
  in_pieces(count, [=](size_t begin, size_t end) {
    size_t i = begin;
    for (; i + 8 <= end; i += 8) {
      const __m128i halves =
          _mm256_cvtps_ph(_mm256_loadu_ps(source + i), _MM_FROUND_TO_NEAREST_INT);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * i), halves);
    }
    for (; i < end; ++i) {
      const uint16_t half = half_from_float(source[i]);
      std::memcpy(to + 2 * i, &half, 2);
    }
  });
#else
  map_elements<float, uint16_t>(source, count, destination,
                                [](float value) { return half_from_float(value); });
#endif
}

void copy_bytes(const void* source, size_t size, void* destination) {
  const char* from = static_cast<const char*>(source);
  char* to = static_cast<char*>(destination);
  in_pieces(size,
            [=](size_t begin, size_t end) { std::memcpy(to + begin, from + begin, end - begin); });
}

float float_from_bfloat16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// Numbers that have a cast to either destination; all but 64-bit integers are exact in double.
template <typename Number>
void numbers_to_floats(const void* source, size_t count, float* destination) {
  map_elements<Number, float>(source, count, destination,
                              [](Number value) { return static_cast<float>(value); });
}
template <typename Number>
void numbers_to_bfloat16(const void* source, size_t count, uint16_t* destination) {
  map_elements<Number, uint16_t>(source, count, destination, [](Number value) {
    return bfloat16_bits(round_to_odd(static_cast<double>(value)));
  });
}

[[noreturn]] void no_conversion(FileDtype dtype, const char* direction) {
  throw std::logic_error("no conversion " + std::string(direction) + " " +
                         std::string(name_of(dtype)));
}

}  // namespace

std::string_view name_of(FileDtype dtype) {
  return kDtypes[static_cast<size_t>(dtype)].name;
}

std::optional<FileDtype> file_dtype_from_name(std::string_view name) {
  for (size_t i = 0; i < kDtypes.size(); ++i) {
    if (kDtypes[i].name == name) return static_cast<FileDtype>(i);
  }
  return std::nullopt;
}

int bits_of(FileDtype dtype) {
  return kDtypes[static_cast<size_t>(dtype)].bits;
}

bool converts_to_float(FileDtype dtype) {
  switch (dtype) {
    case FileDtype::f4:
    case FileDtype::f6_e2m3:
    case FileDtype::f6_e3m2:
    case FileDtype::f8_e5m2:
    case FileDtype::f8_e4m3:
    case FileDtype::f8_e8m0:
    case FileDtype::f8_e4m3fnuz:
    case FileDtype::f8_e5m2fnuz:
    case FileDtype::c64:
      return false;
    default:
      return true;
  }
}

void to_float32(FileDtype dtype, const void* source, size_t count, float* destination) {
  switch (dtype) {
    case FileDtype::f32:
      return copy_bytes(source, 4 * count, destination);
    case FileDtype::bf16:
      return map_elements<uint16_t, float>(
          source, count, destination, [](uint16_t value) { return float_from_bfloat16(value); });
    case FileDtype::f16:
      return floats_from_halves(source, count, destination);
    case FileDtype::f64:
      return numbers_to_floats<double>(source, count, destination);
    case FileDtype::boolean:
    case FileDtype::u8:
      return numbers_to_floats<uint8_t>(source, count, destination);
    case FileDtype::i8:
      return numbers_to_floats<int8_t>(source, count, destination);
    case FileDtype::i16:
      return numbers_to_floats<int16_t>(source, count, destination);
    case FileDtype::u16:
      return numbers_to_floats<uint16_t>(source, count, destination);
    case FileDtype::i32:
      return numbers_to_floats<int32_t>(source, count, destination);
    case FileDtype::u32:
      return numbers_to_floats<uint32_t>(source, count, destination);
    case FileDtype::i64:
      return numbers_to_floats<int64_t>(source, count, destination);
    case FileDtype::u64:
      return numbers_to_floats<uint64_t>(source, count, destination);
    default:
      no_conversion(dtype, "from");
  }
}

void to_bfloat16(FileDtype dtype, const void* source, size_t count, uint16_t* destination) {
  switch (dtype) {
    case FileDtype::bf16:
      return copy_bytes(source, 2 * count, destination);
    case FileDtype::f32:
      return map_elements<float, uint16_t>(source, count, destination,
                                           [](float value) { return bfloat16_bits(value); });
    case FileDtype::f16:
      return map_elements<uint16_t, uint16_t>(source, count, destination, [](uint16_t half) {
        return bfloat16_bits(float_from_half(half));
      });
    case FileDtype::f64:
      return numbers_to_bfloat16<double>(source, count, destination);
    case FileDtype::boolean:
    case FileDtype::u8:
      return numbers_to_bfloat16<uint8_t>(source, count, destination);
    case FileDtype::i8:
      return numbers_to_bfloat16<int8_t>(source, count, destination);
    case FileDtype::i16:
      return numbers_to_bfloat16<int16_t>(source, count, destination);
    case FileDtype::u16:
      return numbers_to_bfloat16<uint16_t>(source, count, destination);
    case FileDtype::i32:
      return numbers_to_bfloat16<int32_t>(source, count, destination);
    case FileDtype::u32:
      return numbers_to_bfloat16<uint32_t>(source, count, destination);
    case FileDtype::i64:
      return numbers_to_bfloat16<int64_t>(source, count, destination);
    case FileDtype::u64:
      return numbers_to_bfloat16<uint64_t>(source, count, destination);
    default:
      no_conversion(dtype, "from");
  }
}

void from_float32(const float* source, size_t count, FileDtype dtype, void* destination) {
  switch (dtype) {
    case FileDtype::f32:
      return copy_bytes(source, 4 * count, destination);
    case FileDtype::bf16:
      return map_elements<float, uint16_t>(source, count, destination,
                                           [](float value) { return bfloat16_bits(value); });
    case FileDtype::f16:
      return halves_from_floats(source, count, destination);
    case FileDtype::f64:
      return map_elements<float, double>(source, count, destination,
                                         [](float value) { return static_cast<double>(value); });
    default:
      no_conversion(dtype, "to");
  }
}

void from_bfloat16(const uint16_t* source, size_t count, FileDtype dtype, void* destination) {
  switch (dtype) {
    case FileDtype::f32:
      return map_elements<uint16_t, float>(
          source, count, destination, [](uint16_t value) { return float_from_bfloat16(value); });
    case FileDtype::bf16:
      return copy_bytes(source, 2 * count, destination);
    case FileDtype::f16:
      return map_elements<uint16_t, uint16_t>(source, count, destination, [](uint16_t bits) {
        return half_from_float(float_from_bfloat16(bits));
      });
    case FileDtype::f64:
      return map_elements<uint16_t, double>(source, count, destination, [](uint16_t bits) {
        return static_cast<double>(float_from_bfloat16(bits));
      });
    default:
      no_conversion(dtype, "to");
  }
}

}  // namespace engine
