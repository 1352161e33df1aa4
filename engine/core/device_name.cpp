#include "engine/core/device_name.h"

#include <charconv>

namespace engine {

std::optional<DeviceName> parse_device_name(std::string_view name) {
  using Kind = DeviceName::Kind;
  if (name == "auto") return DeviceName{Kind::automatic};
  if (name == "cpu") return DeviceName{Kind::cpu};
  if (name == "simt") return DeviceName{Kind::simt};
  if (name == "cuda") return DeviceName{Kind::cuda};
  if (!name.starts_with("cuda:")) return std::nullopt;
  name.remove_prefix(5);
  DeviceName device{Kind::cuda};
  const auto [rest, status] = std::from_chars(name.data(), name.data() + name.size(), device.index);
  if (status != std::errc() || rest != name.data() + name.size() || device.index < 0) {
    return std::nullopt;
  }
  return device;
}

}  // namespace engine
