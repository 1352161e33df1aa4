// The element types that a safetensors file can hold, and conversion to what the engine computes
// with. (Operations know fewer types: kernels/api/types.h.)
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace engine {

// In the order of the safetensors reference implementation, which is also the order, backwards, in
// which it lays tensors out: wider types first, so that all of them stay aligned.
enum class FileDtype : uint8_t {
  boolean,
  f4,
  f6_e2m3,
  f6_e3m2,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  c64,
  f64,
  i64,
  u64,
};
constexpr int kFileDtypeCount = 22;

// "BF16", "F8_E4M3", ...: the spelling in the file.
std::string_view name_of(FileDtype dtype);
std::optional<FileDtype> file_dtype_from_name(std::string_view name);

// Bits per element: a multiple of 8 except for f4 and f6.
int bits_of(FileDtype dtype);

// True for the types that `to_float32` and `to_bfloat16` read: f16, bf16, f32, f64, the integers
// and boolean. The 4-, 6- and 8-bit floats are not among them: such tensors mean something only
// together with their scales.
bool converts_to_float(FileDtype dtype);

// `count` elements from a file to fp32 or bf16. `source` may have any alignment; the destination
// may not overlap it. Rounding is to nearest even, once; overflow gives infinity; a NaN stays a
// (quiet) NaN. 64-bit integers go through double. Throws std::logic_error unless
// converts_to_float(dtype). Large arrays use OpenMP.
void to_float32(FileDtype dtype, const void* source, size_t count, float* destination);
void to_bfloat16(FileDtype dtype, const void* source, size_t count, uint16_t* destination);

// `count` fp32 or bf16 elements into f16, bf16, f32 or f64 as stored in a file; `destination` may
// have any alignment. Rounding as above. Throws std::logic_error for another `dtype`.
void from_float32(const float* source, size_t count, FileDtype dtype, void* destination);
void from_bfloat16(const uint16_t* source, size_t count, FileDtype dtype, void* destination);

}  // namespace engine
