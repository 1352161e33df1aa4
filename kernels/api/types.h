// Types that every operation shares. kernels/ knows pointers, shapes and streams: no tensors, no
// models, nothing above it.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace engine::kernels {

// Element types that operations compute with. (Files know more: weights/safetensors.h.)
enum class DType : uint8_t { f32, bf16, i32, i64, u8 };

constexpr size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 4;
    case DType::bf16:
      return 2;
    case DType::i32:
      return 4;
    case DType::i64:
      return 8;
    case DType::u8:
      return 1;
  }
  return 0;
}

const char* name_of(DType dtype);

// bfloat16: the upper half of an IEEE fp32. Conversion rounds to nearest even; NaN stays quiet.
struct BFloat16 {
  uint16_t bits;

  BFloat16() = default;
  explicit BFloat16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    bits = (u & 0x7fffffffu) > 0x7f800000u
               ? static_cast<uint16_t>((u >> 16) | 0x40u)
               : static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
};

enum class DeviceType : uint8_t {
  cpu,   // OpenMP
  cuda,  // an NVIDIA GPU
  simt,  // the kernels of `cuda` on the software GPU: slow, on every machine, and checked
  meta,  // computes nothing: dry runs that plan memory
};

const char* name_of(DeviceType device);

// Where and in which order an operation runs. On the CPU operations run at once, on the calling
// thread's OpenMP team.
struct Stream {
  DeviceType device = DeviceType::cpu;
  int device_index = 0;
  void* handle = nullptr;  // native stream of the device; null on the CPU
  // For meta: the device whose step is planned. Its workspaces are counted.
  DeviceType planned = DeviceType::cpu;
};

// A number that an operation is given: the value itself, or where in device memory it lies when the
// operation runs. What is recorded (Operations::begin_recording) repeats the address and reads what
// is there then; a value would be repeated.
template <typename T>
struct Scalar {
  T value{};
  const T* memory = nullptr;  // of the device; counts where it is set

  constexpr Scalar() = default;
  constexpr Scalar(T known) : value(known) {}  // NOLINT: `.seed = 5`
  static constexpr Scalar at(const T* memory) {
    Scalar scalar;
    scalar.memory = memory;
    return scalar;
  }
  // Of devices that compute in the host's memory.
  constexpr T get() const { return memory ? *memory : value; }
};

// Contract violations are bugs of the caller (engine code), never of the user.
inline void require(bool condition, const char* message) {
  if (!condition) throw std::logic_error(message);
}

}  // namespace engine::kernels
