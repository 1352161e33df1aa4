// Which layers of a model see everything before a token, and which a window of it.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "models/config_reader.h"

namespace engine {

// The window of each layer in keys, the token itself included; 0 = everything. The list
// `layer_types` of config.json decides, or, where there is none, `sliding_by_default(layer)`.
// `window` is the width for layers that slide; 0 = the config gives none.
std::vector<int64_t> read_layer_windows(const ConfigReader& config, int num_layers, int64_t window,
                                        const std::function<bool(int)>& sliding_by_default);

}  // namespace engine
