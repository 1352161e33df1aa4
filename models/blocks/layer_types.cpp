#include "models/blocks/layer_types.h"

#include <algorithm>

namespace engine {

std::vector<int64_t> read_layer_windows(const ConfigReader& config, int num_layers, int64_t window,
                                        const std::function<bool(int)>& sliding_by_default) {
  const std::vector<std::string> types = config.strings("layer_types");
  if (config.has("layer_types") && types.size() != static_cast<size_t>(num_layers)) {
    config.invalid("layer_types", std::to_string(num_layers) + " of them, one for each layer",
                   std::to_string(types.size()));
  }
  std::vector<int64_t> windows;
  for (int i = 0; i < num_layers; ++i) {
    bool sliding = types.empty() && sliding_by_default(i);
    if (!types.empty() && types[i] != "full_attention") {
      if (types[i] != "sliding_attention") {
        config.unsupported("layer_types", "\"" + types[i] + "\"",
                           "full_attention or sliding_attention");
      }
      sliding = true;
    }
    if (sliding && window == 0) {
      config.invalid("sliding_window", "the keys that a layer of sliding attention sees",
                     "nothing");
    }
    windows.push_back(sliding ? std::min<int64_t>(window, INT32_MAX) : 0);
  }
  return windows;
}

}  // namespace engine
