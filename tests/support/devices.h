// The devices that the engine's tests run on: the CPU, the software GPU, and CUDA where this build
// and this machine have it.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "kernels/api/operations.h"

namespace engine::testing {

inline std::vector<kernels::DeviceType> test_devices() {
  using kernels::DeviceType;
  std::vector<DeviceType> devices = {DeviceType::cpu, DeviceType::simt};
  if (kernels::has_device(DeviceType::cuda) &&
      kernels::operations(DeviceType::cuda).count_devices().count > 0) {
    devices.push_back(DeviceType::cuda);
  }
  return devices;
}

// Those besides the CPU.
inline std::vector<kernels::DeviceType> test_gpus() {
  std::vector<kernels::DeviceType> devices = test_devices();
  devices.erase(devices.begin());
  return devices;
}

inline std::string device_name(const ::testing::TestParamInfo<kernels::DeviceType>& info) {
  return kernels::name_of(info.param);
}

}  // namespace engine::testing
