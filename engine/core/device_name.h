// How users name devices, in train.device and --device.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace engine {

struct DeviceName {
  enum class Kind : uint8_t {
    automatic,  // a GPU if there is one that this build can use, else the CPU
    cpu,
    cuda,
    simt,
  };
  Kind kind = Kind::automatic;
  int index = 0;  // of cuda
};

inline constexpr const char* kDeviceNames = "auto, cpu, cuda, cuda:N or simt";

// Nothing for what is none of kDeviceNames.
std::optional<DeviceName> parse_device_name(std::string_view name);

}  // namespace engine
