#include "weights/file_dtype.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace engine {
namespace {

TEST(FileDtype, NamesGoThereAndBack) {
  for (int i = 0; i < kFileDtypeCount; ++i) {
    const auto dtype = static_cast<FileDtype>(i);
    EXPECT_EQ(file_dtype_from_name(name_of(dtype)), dtype);
  }
  EXPECT_EQ(name_of(FileDtype::bf16), "BF16");
  EXPECT_EQ(bits_of(FileDtype::f6_e3m2), 6);
  EXPECT_EQ(bits_of(FileDtype::c64), 64);
  EXPECT_FALSE(file_dtype_from_name("bf16").has_value());
  EXPECT_FALSE(file_dtype_from_name("").has_value());
}

// The value of a float with `exponent_bits` and `mantissa_bits`, from its definition.
double decode(uint32_t bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const double mantissa = bits & ((1u << mantissa_bits) - 1);
  const double sign = (bits >> (exponent_bits + mantissa_bits)) ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) {
    return mantissa == 0 ? sign * INFINITY : NAN;
  }
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

// The 16-bit pattern nearest to `value`, ties to even, by search: patterns of one sign are in the
// order of their values.
uint16_t nearest_pattern(double value, int exponent_bits, int mantissa_bits) {
  const uint32_t infinity = ((1u << exponent_bits) - 1) << mantissa_bits;
  const uint32_t sign = std::signbit(value) ? 0x8000u : 0;
  const double magnitude = std::fabs(value);
  uint32_t low = 0, high = infinity;  // decode(low) <= magnitude; high is above or equal
  while (low + 1 < high) {
    const uint32_t middle = (low + high) / 2;
    (decode(middle, exponent_bits, mantissa_bits) <= magnitude ? low : high) = middle;
  }
  // Infinity stands where the next number would, had the exponent one more value.
  const double below = decode(low, exponent_bits, mantissa_bits);
  const double above = high == infinity ? std::ldexp(1.0, 1 << (exponent_bits - 1))
                                        : decode(high, exponent_bits, mantissa_bits);
  const bool up = magnitude - below > above - magnitude ||
                  (magnitude - below == above - magnitude && (low & 1));
  return static_cast<uint16_t>(sign | (up ? high : low));
}

TEST(Conversion, EveryHalfAndEveryBfloat16ToFloat) {
  std::vector<uint16_t> all(1 << 16);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  std::vector<float> result(all.size());
  for (const auto& [dtype, exponent_bits] :
       {std::pair{FileDtype::f16, 5}, std::pair{FileDtype::bf16, 8}}) {
    to_float32(dtype, all.data(), all.size(), result.data());
    for (size_t i = 0; i < all.size(); ++i) {
      const double expected = decode(all[i], exponent_bits, 15 - exponent_bits);
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(result[i])) << i;
      } else {
        ASSERT_EQ(result[i], expected) << i;
        ASSERT_EQ(std::signbit(result[i]), std::signbit(expected)) << i;
      }
      // One at a time goes through the scalar code that ends every array.
      float alone;
      to_float32(dtype, &all[i], 1, &alone);
      ASSERT_EQ(std::bit_cast<uint32_t>(alone), std::bit_cast<uint32_t>(result[i])) << i;
    }
  }
}

std::vector<float> awkward_floats() {
  std::vector<float> values = {0.0f,
                               -0.0f,
                               1.0f,
                               INFINITY,
                               -INFINITY,
                               65504.0f,
                               65519.996f,
                               65520.0f,
                               1e-8f,
                               5.9604645e-8f,
                               2.9802322e-8f,
                               2.9802326e-8f,
                               6.1035156e-5f,
                               6.1e-5f,
                               std::numeric_limits<float>::max(),
                               std::numeric_limits<float>::denorm_min()};
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    // Random patterns seldom tie: half of them get low bits that do, for bf16 or for f16.
    uint32_t bits = random();
    if (i % 4 == 1) bits = (bits & 0xffff0000u) | 0x8000u;
    if (i % 4 == 3) bits = (bits & 0xffffe000u) | 0x1000u;
    if (i % 8 >= 4) bits = (bits & 0x8fffffffu) | 0x30000000u;  // into the range of f16
    const float value = std::bit_cast<float>(bits);
    if (!std::isnan(value)) values.push_back(value);
  }
  return values;
}

TEST(Conversion, RoundsToNearestEven) {
  const std::vector<float> values = awkward_floats();
  std::vector<uint16_t> halves(values.size()), bfloats(values.size()), direct(values.size());
  from_float32(values.data(), values.size(), FileDtype::f16, halves.data());
  from_float32(values.data(), values.size(), FileDtype::bf16, bfloats.data());
  to_bfloat16(FileDtype::f32, values.data(), values.size(), direct.data());
  EXPECT_EQ(direct, bfloats);
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(halves[i], nearest_pattern(values[i], 5, 10)) << values[i];
    ASSERT_EQ(bfloats[i], nearest_pattern(values[i], 8, 7)) << values[i];
    uint16_t alone;
    from_float32(&values[i], 1, FileDtype::f16, &alone);
    ASSERT_EQ(alone, halves[i]) << values[i];
  }
}

TEST(Conversion, DoubleToBfloat16RoundsOnce) {
  // Just above a tie: rounding to fp32 first would land on the tie and then go down.
  const double above_tie = 1.0 + 0x1p-8 + 0x1p-40;
  const double values[] = {above_tie, -above_tie, 1.0 + 0x1p-8, 1e300, -1e300, 1e-300, 3.0};
  uint16_t result[std::size(values)];
  to_bfloat16(FileDtype::f64, values, std::size(values), result);
  for (size_t i = 0; i < std::size(values); ++i) {
    EXPECT_EQ(result[i], nearest_pattern(values[i], 8, 7)) << values[i];
  }
  EXPECT_EQ(result[0], 0x3f81);
}

TEST(Conversion, NaNStaysQuietNaN) {
  const float nan = std::bit_cast<float>(0x7f800001u);  // signalling, all payload in the low bits
  std::vector<float> source(9, nan);                    // 8 in a vector, 1 alone
  std::vector<uint16_t> result(9);
  for (const FileDtype dtype : {FileDtype::bf16, FileDtype::f16}) {
    from_float32(source.data(), 9, dtype, result.data());
    const uint16_t quiet = dtype == FileDtype::bf16 ? 0x7fc0 : 0x7e00;
    for (const uint16_t bits : result) EXPECT_EQ(bits & quiet, quiet);
  }
  const double double_nan = std::numeric_limits<double>::quiet_NaN();
  to_bfloat16(FileDtype::f64, &double_nan, 1, result.data());
  EXPECT_EQ(result[0] & 0x7fc0, 0x7fc0);
}

template <typename Number>
void expect_numbers(FileDtype dtype, std::vector<Number> numbers) {
  std::vector<char> unaligned(numbers.size() * sizeof(Number) + 1);
  std::copy_n(reinterpret_cast<const char*>(numbers.data()), unaligned.size() - 1,
              unaligned.data() + 1);
  std::vector<float> floats(numbers.size());
  std::vector<uint16_t> bfloats(numbers.size());
  to_float32(dtype, unaligned.data() + 1, numbers.size(), floats.data());
  to_bfloat16(dtype, unaligned.data() + 1, numbers.size(), bfloats.data());
  for (size_t i = 0; i < numbers.size(); ++i) {
    EXPECT_EQ(floats[i], static_cast<float>(numbers[i])) << name_of(dtype);
    EXPECT_EQ(bfloats[i], nearest_pattern(static_cast<double>(numbers[i]), 8, 7)) << name_of(dtype);
  }
}

TEST(Conversion, NumbersOfEveryTypeAtAnyAlignment) {
  expect_numbers<uint8_t>(FileDtype::boolean, {0, 1, 1});
  expect_numbers<uint8_t>(FileDtype::u8, {0, 255, 7});
  expect_numbers<int8_t>(FileDtype::i8, {-128, 127, -1});
  expect_numbers<int16_t>(FileDtype::i16, {-32768, 32767, 257});
  expect_numbers<uint16_t>(FileDtype::u16, {65535, 257});
  expect_numbers<int32_t>(FileDtype::i32, {INT32_MIN, INT32_MAX, 16843009});
  expect_numbers<uint32_t>(FileDtype::u32, {UINT32_MAX, 16843009});
  expect_numbers<int64_t>(FileDtype::i64, {INT64_MIN, 1, (int64_t{257} << 40) + 1});
  expect_numbers<uint64_t>(FileDtype::u64, {UINT64_MAX, 1});
  expect_numbers<double>(FileDtype::f64, {3.141592653589793, -1e-3});
  expect_numbers<float>(FileDtype::f32, {3.1415927f, -1e-3f});
}

TEST(Conversion, LargeArraysGoThroughAllPieces) {
  const size_t count = (size_t{1} << 21) + 37;
  std::vector<uint16_t> source(count), back(count);
  for (size_t i = 0; i < count; ++i) source[i] = static_cast<uint16_t>(i % 0x7c00);
  std::vector<float> floats(count);
  to_float32(FileDtype::f16, source.data(), count, floats.data());
  from_float32(floats.data(), count, FileDtype::f16, back.data());
  EXPECT_EQ(back, source);
  to_float32(FileDtype::bf16, source.data(), count, floats.data());
  from_float32(floats.data(), count, FileDtype::bf16, back.data());
  EXPECT_EQ(back, source);
  std::vector<double> doubles(count);
  from_bfloat16(source.data(), count, FileDtype::f64, doubles.data());
  for (size_t i = 0; i < count; ++i) ASSERT_EQ(doubles[i], floats[i]);
}

TEST(Conversion, QuantisedTypesAreRefused) {
  float result;
  const uint8_t source = 0;
  EXPECT_FALSE(converts_to_float(FileDtype::f8_e4m3));
  EXPECT_THROW(to_float32(FileDtype::f8_e4m3, &source, 1, &result), std::logic_error);
  EXPECT_THROW(from_float32(&result, 0, FileDtype::i32, nullptr), std::logic_error);
}

}  // namespace
}  // namespace engine
