// For tests of the software GPU: all schedules, and what a fault says.
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
#include "tests/kernels/hardware/arrays.h"

namespace engine::kernels::simt::testing {

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

}  // namespace engine::kernels::simt::testing
