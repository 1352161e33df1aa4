// Qwen2 and Qwen2.5: Llama with biases on q, k and v, and with windows in the upper layers where
// the config asks for them.
#include <nlohmann/json.hpp>

#include "models/blocks/layer_types.h"
#include "models/blocks/pre_norm_decoder.h"
#include "models/registry.h"

namespace engine {
namespace {

class Qwen2 final : public PreNormDecoder {
 public:
  Qwen2(const nlohmann::ordered_json& json, const std::string& where, Task task)
      : PreNormDecoder(json) {
    const nlohmann::json plain = json;
    const ConfigReader config(plain, where);
    info_ = {.family = "qwen2",
             .task = task,
             .vocab_size = 151936,
             .hidden_size = 4096,
             .intermediate_size = 22016,
             .num_layers = 32,
             .num_heads = 32,
             .max_positions = 32768};
    info_.architecture = architecture("Qwen2");
    read_sizes(config);
    info_.windows = read_windows(config);
    build(config, {.qkv = true});
  }

 private:
  // use_sliding_window turns windows on, in the layers from max_window_layers up.
  std::vector<int64_t> read_windows(const ConfigReader& config) const {
    int64_t window = 0;
    if (config.boolean("use_sliding_window", false) && !config.is_null("sliding_window")) {
      window = config.integer("sliding_window", 4096);
    }
    const int64_t first = config.integer("max_window_layers", 28, /*minimum=*/0);
    return read_layer_windows(config, info_.num_layers, window,
                              [&](int layer) { return window > 0 && layer >= first; });
  }
};

}  // namespace

std::unique_ptr<Model> make_qwen2(const nlohmann::ordered_json& config, const std::string& where,
                                  Task task) {
  return std::make_unique<Qwen2>(config, where, task);
}

}  // namespace engine
