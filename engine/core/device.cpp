#include "engine/core/device.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "engine/core/device_name.h"
#include "engine/core/error.h"
#include "engine/core/memory.h"

namespace engine {
namespace {

using kernels::DeviceCount;
using kernels::DeviceInfo;
using kernels::DeviceType;
using kernels::Stream;

// Kernels use bf16 tensor cores and cp.async: Ampere.
constexpr int kOldestCapability = 80;

// What CUDA may still take for itself: code that is loaded at its first launch, stacks.
constexpr size_t kDriverReserve = size_t{256} << 20;

Error device_error(const char* code, std::string what) {
  return Error(ExitCode::usage, code, std::move(what));
}

std::string capability(const DeviceInfo& info) {
  return fmt::format("{} (compute capability {}.{})", info.name, info.compute_capability / 10,
                     info.compute_capability % 10);
}

constexpr const char* kElse = "; or --device cpu (train.device=cpu)";

// Throws the reason why there is no GPU at all.
void require_gpus(const CudaSurvey& survey) {
  if (!survey.built) {
    throw device_error("DEV-NO-CUDA", "this build has no CUDA device")
        .found("cpu, simt")
        .fix(std::string("build with the CUDA toolkit: cmake --preset cuda && "
                         "cmake --build --preset cuda") +
             kElse);
  }
  using Problem = DeviceCount::Problem;
  switch (survey.count.problem) {
    case Problem::none:
      return;
    case Problem::no_driver:
      throw device_error("DEV-NO-DRIVER", "the NVIDIA driver is missing or too old for this build")
          .found(survey.count.message)
          .fix(std::string("install a driver until nvidia-smi lists the GPU; a container must be "
                           "started with access to it (--gpus all)") +
               kElse);
    case Problem::no_device: {
      Error error = device_error("DEV-NO-GPU", "there is a driver, but no GPU for this process");
      error.found(survey.count.message);
      if (const char* visible = std::getenv("CUDA_VISIBLE_DEVICES")) {
        error.with("note", fmt::format("CUDA_VISIBLE_DEVICES=\"{}\"", visible));
      }
      throw error.fix(std::string("check nvidia-smi and CUDA_VISIBLE_DEVICES") + kElse);
    }
    case Problem::other:
      break;
  }
  throw device_error("DEV-FAILED", "the CUDA driver fails")
      .found(survey.count.message)
      .fix(std::string("nvidia-smi and the system's log (dmesg) may say more") + kElse);
}

}  // namespace

CudaSurvey survey_cuda() {
  CudaSurvey survey{.built = kernels::has_device(DeviceType::cuda)};
  if (!survey.built) return survey;
  const kernels::Operations& cuda = kernels::operations(DeviceType::cuda);
  survey.count = cuda.count_devices();
  try {
    for (int i = 0; i < survey.count.count; ++i) {
      survey.devices.push_back(
          cuda.device_info(Stream{.device = DeviceType::cuda, .device_index = i}));
    }
  } catch (const kernels::GpuError& error) {
    survey.count = {.problem = DeviceCount::Problem::other, .message = error.what()};
    survey.devices.clear();
  }
  return survey;
}

Stream choose_device(const std::string& text, const CudaSurvey& survey) {
  using Kind = DeviceName::Kind;
  const std::optional<DeviceName> name = parse_device_name(text);
  if (!name) {
    throw device_error("DEV-NAME", "there is no device \"" + text + "\"").expected(kDeviceNames);
  }
  switch (name->kind) {
    case Kind::cpu:
      return {.device = DeviceType::cpu};
    case Kind::simt:
      return {.device = DeviceType::simt};
    case Kind::automatic: {
      const auto usable = std::find_if(
          survey.devices.begin(), survey.devices.end(),
          [](const DeviceInfo& info) { return info.compute_capability >= kOldestCapability; });
      if (usable == survey.devices.end()) return {.device = DeviceType::cpu};
      return {.device = DeviceType::cuda,
              .device_index = static_cast<int>(usable - survey.devices.begin())};
    }
    case Kind::cuda:
      break;
  }
  require_gpus(survey);
  if (name->index >= survey.count.count) {
    Error error = device_error("DEV-INDEX", fmt::format("there is no cuda:{}", name->index));
    for (size_t i = 0; i < survey.devices.size(); ++i) {
      error.found(fmt::format("cuda:{}  {}", i, survey.devices[i].name));
    }
    throw error.expected(survey.count.count == 1
                             ? std::string("cuda:0, or just cuda")
                             : fmt::format("cuda:0 to cuda:{}", survey.count.count - 1));
  }
  const DeviceInfo& info = survey.devices[static_cast<size_t>(name->index)];
  if (info.compute_capability < kOldestCapability) {
    throw device_error("DEV-OLD", fmt::format("cuda:{} is too old for the kernels", name->index))
        .expected("compute capability 8.0 (Ampere) or newer")
        .found(capability(info))
        .fix("another GPU, cuda:N; or --device cpu (train.device=cpu)");
  }
  return {.device = DeviceType::cuda, .device_index = name->index};
}

Stream choose_device(const std::string& name) {
  const std::optional<DeviceName> parsed = parse_device_name(name);
  // The driver takes its time to start: not where nobody asked for it.
  const bool may_be_cuda = parsed && (parsed->kind == DeviceName::Kind::cuda ||
                                      parsed->kind == DeviceName::Kind::automatic);
  return choose_device(name, may_be_cuda ? survey_cuda() : CudaSurvey{});
}

std::string name_of(const Stream& device) {
  std::string name = kernels::name_of(device.device);
  if (device.device == DeviceType::cuda) name += fmt::format(":{}", device.device_index);
  return name;
}

std::string device_notice(const Stream& device) {
  if (device.device != DeviceType::simt) return "";
  return "simt simulates a GPU thread by thread, to check its kernels: some hundred times slower "
         "than the CPU device, for tiny models";
}

size_t available_memory(const Stream& stream) {
  if (stream.device != DeviceType::cuda) return available_host_memory();
  kernels::require(stream.handle, "available_memory: a stream without a queue");
  const size_t free = kernels::operations(stream).device_info(stream).free_memory;
  return free - std::min(free, kDriverReserve);
}

std::string memory_source(const Stream& device) {
  if (device.device != DeviceType::cuda) return "available on this machine";
  return fmt::format("free on {} ({})", name_of(device),
                     kernels::operations(device).device_info(device).name);
}

}  // namespace engine
