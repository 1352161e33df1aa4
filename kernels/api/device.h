// What a device is and whether there is one: for the choice of a device, memory limits, banners.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace engine::kernels {

struct DeviceInfo {
  std::string name;         // the driver's: "NVIDIA H200"; "CPU"; "software GPU"
  size_t total_memory = 0;  // bytes; 0: the device computes in the host's memory
  // Now. Only of a stream with a queue of its own (create_stream) and 0 otherwise: to ask takes
  // memory on the device.
  size_t free_memory = 0;
  int multiprocessors = 0;     // 0 on the CPU
  int compute_capability = 0;  // 10 * major + minor; 0 on the CPU
};

struct DeviceCount {
  enum class Problem : uint8_t {
    none,
    no_driver,  // none is installed, or it is older than this build needs
    no_device,  // a driver, but no GPU that this process may use
    other,
  };
  int count = 0;
  Problem problem = Problem::none;
  std::string message;  // the driver's own words, when there is a problem
};

// A call to the GPU failed: what, and the driver's words.
class GpuError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace engine::kernels
