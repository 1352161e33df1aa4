// For tests of the software GPU: arrays in its memory, all schedules, and what a fault says.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/memory.h"
#include "kernels/simt/launch.h"

namespace engine::kernels::simt::testing {

// An array of device memory: given values, or every byte 0xFF.
template <typename T>
class OnDevice {
 public:
  explicit OnDevice(size_t count) : count_(count) {
    data_ = static_cast<T*>(allocate({}, count * sizeof(T)));
  }
  explicit OnDevice(const std::vector<T>& values) : OnDevice(values.size()) {
    copy_to_device({}, data_, values.data(), values.size() * sizeof(T));
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

// Sets a schedule for its lifetime.
class WithSchedule {
 public:
  explicit WithSchedule(const std::string& schedule) : before_(current_schedule()) {
    set_schedule(parse_schedule(schedule));
  }
  ~WithSchedule() { set_schedule(before_); }
  WithSchedule(const WithSchedule&) = delete;
  WithSchedule& operator=(const WithSchedule&) = delete;

 private:
  Schedule before_;
};

inline const std::vector<std::string>& all_schedules() {
  static const std::vector<std::string> schedules = {"eager", "lazy", "random:1", "random:2",
                                                     "random:3"};
  return schedules;
}

template <typename Body>
void under_all_schedules(Body body) {
  for (const std::string& schedule : all_schedules()) {
    SCOPED_TRACE(schedule);
    const WithSchedule with(schedule);
    body();
  }
}

// What the fault says that `body` ends with; "" without one.
template <typename Body>
std::string fault_of(Body body) {
  try {
    body();
  } catch (const KernelFault& fault) {
    return fault.what();
  }
  return "";
}

// The message of a fault has all of these.
inline void expect_in(const std::string& message, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) {
    EXPECT_NE(message.find(part), std::string::npos)
        << "\"" << part << "\" is missing in: \"" << message << "\"";
  }
}

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
inline std::vector<BFloat16> to_bf16(const std::vector<float>& values) {
  std::vector<BFloat16> result;
  for (float value : values) result.push_back(BFloat16(value));
  return result;
}

}  // namespace engine::kernels::simt::testing
