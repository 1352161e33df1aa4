// The memory of the software GPU: blocks of host memory, known by address, so that every access of
// a kernel is checked against them.
#pragma once

#include <cstddef>
#include <vector>

namespace engine::kernels::simt {

// With the environment variable ENGINE_SIMT_PROTECT=1 device memory is readable and writable only
// while a kernel or a copy runs (DeviceAccess): host code that follows a device pointer, which
// works here and not on a GPU, then ends with a segmentation fault at its line.

// Filled with 0xFF, which is NaN in fp32 and bf16: what was never written shows. 256-byte aligned,
// as cudaMalloc gives it. Null when the system has no memory left.
void* allocate_device_memory(size_t bytes);
void free_device_memory(void* data);  // null is allowed

// Opens protected memory to the host while one lives; costs nothing without protection.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

// The allocation that holds `address`, or null pointers.
struct DeviceAllocation {
  const std::byte* begin = nullptr;
  const std::byte* end = nullptr;
};
DeviceAllocation find_device_allocation(const void* address);
std::vector<DeviceAllocation> device_allocations();  // all there are
// The allocation nearest below `address`, to say in an error what was probably meant.
DeviceAllocation nearest_device_allocation(const void* address);

}  // namespace engine::kernels::simt
