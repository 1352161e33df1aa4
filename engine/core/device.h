// Choosing the device that a command runs on, and what it has.
#pragma once

#include <string>
#include <vector>

#include "kernels/api/operations.h"

namespace engine {

// The CUDA devices of this machine, as far as this build can see them.
struct CudaSurvey {
  bool built = false;  // this build has the CUDA device
  kernels::DeviceCount count;
  std::vector<kernels::DeviceInfo> devices;  // count.count of them
};
CudaSurvey survey_cuda();

// The device of a name (device_name.h); its queue is made by Runtime. Errors (usage):
//   DEV-NAME       no such name
//   DEV-NO-CUDA    this build has no CUDA device
//   DEV-NO-DRIVER  no NVIDIA driver, or one that is too old
//   DEV-NO-GPU     a driver, but no GPU for this process
//   DEV-INDEX      fewer GPUs than that
//   DEV-OLD        a GPU older than compute capability 8.0
//   DEV-FAILED     the driver fails in another way
// "auto" has no error: a GPU that can be used, else the CPU.
kernels::Stream choose_device(const std::string& name, const CudaSurvey& survey);
kernels::Stream choose_device(const std::string& name);

// "cpu", "cuda:1", "simt".
std::string name_of(const kernels::Stream& device);

// What users of this device should know before they wait for it; "" mostly.
std::string device_notice(const kernels::Stream& device);

// Bytes that can be taken on the device now. On the CPU and the software GPU: the host's. CUDA
// knows it of a Runtime's stream only.
size_t available_memory(const kernels::Stream& stream);
// Where that limit comes from, for errors.
std::string memory_source(const kernels::Stream& device);

}  // namespace engine
