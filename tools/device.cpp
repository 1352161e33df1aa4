#include "tools/device.h"

#include <fmt/format.h>

#include "engine/core/device_name.h"

namespace engine {

void add_device_option(CLI::App& app, std::string& name) {
  app.add_option(
         "--device", name,
         std::string(kDeviceNames) + "; auto: a GPU if this build can use one, else the CPU")
      ->capture_default_str();
}

kernels::Stream device_of(const std::string& name, const Invocation& invocation) {
  const kernels::Stream device = choose_device(name);
  if (const std::string notice = device_notice(device);
      !notice.empty() && invocation.global.verbosity >= 0) {
    fmt::print(stderr, "note    {}\n", notice);
  }
  return device;
}

}  // namespace engine
