// Example configs for `engine config new`.
#pragma once

#include <span>
#include <string_view>

namespace engine {

struct ConfigPreset {
  std::string_view name;
  std::string_view summary;
  std::string_view text;
};

std::span<const ConfigPreset> config_presets();

}  // namespace engine
