// Arrays in the memory of a GPU, real or simulated, and numbers to put into them.
#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/cuda/cuda.h"

namespace engine::kernels::ENGINE_GPU::testing {

// An array of device memory: given values, or every byte 0xFF.
template <typename T>
class OnDevice {
 public:
  explicit OnDevice(size_t count) : count_(count) {
    data_ = static_cast<T*>(allocate({}, count * sizeof(T)));
    const std::vector<unsigned char> poison(count * sizeof(T), 0xFF);
    copy_to_device({}, data_, poison.data(), poison.size());
  }
  explicit OnDevice(const std::vector<T>& values) : count_(values.size()) {
    data_ = static_cast<T*>(allocate({}, count_ * sizeof(T)));
    copy_to_device({}, data_, values.data(), count_ * sizeof(T));
  }
  ~OnDevice() { release({}, data_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  T* data() const { return data_; }
  std::vector<T> values() const {
    std::vector<T> result(count_);
    copy_to_host({}, result.data(), data_, count_ * sizeof(T));
    return result;
  }

 private:
  size_t count_;
  T* data_;
};

// Small whole numbers, exact in bf16, never the same row twice.
inline std::vector<float> small_integers(size_t count, uint32_t seed) {
  std::vector<float> values(count);
  uint32_t state = seed * 2654435761u + 1;
  for (float& value : values) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<float>(static_cast<int>(state >> 16) % 9 - 4);
  }
  return values;
}
// first, first + 1, ...: every element is told from every other.
inline std::vector<float> counted(size_t count, float first = 1.0f) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), first);
  return values;
}
inline std::vector<BFloat16> to_bf16(const std::vector<float>& values) {
  std::vector<BFloat16> result;
  result.reserve(values.size());
  for (float value : values) result.push_back(BFloat16(value));
  return result;
}

}  // namespace engine::kernels::ENGINE_GPU::testing
