// Llama 1 to 3.x, and every model of its shape: RMSNorm before each sublayer, RoPE with HF's
// scalings, grouped-query attention, SwiGLU, tied or untied head, or a classification head.
#include <nlohmann/json.hpp>

#include "models/blocks/pre_norm_decoder.h"
#include "models/registry.h"

namespace engine {
namespace {

class Llama final : public PreNormDecoder {
 public:
  Llama(const nlohmann::ordered_json& json, const std::string& where, Task task)
      : PreNormDecoder(json) {
    const nlohmann::json plain = json;
    const ConfigReader config(plain, where);
    info_ = {.family = "llama",
             .task = task,
             .vocab_size = 32000,
             .hidden_size = 4096,
             .intermediate_size = 11008,
             .num_layers = 32,
             .num_heads = 32,
             .max_positions = 2048,
             .bos_ids = {1},
             .eos_ids = {2}};
    info_.architecture = architecture("Llama");
    read_sizes(config);
    const bool attention_bias = config.boolean("attention_bias", false);
    build(config, {.qkv = attention_bias,
                   .attention_out = attention_bias,
                   .mlp = config.boolean("mlp_bias", false)});
  }
};

}  // namespace

std::unique_ptr<Model> make_llama(const nlohmann::ordered_json& config, const std::string& where,
                                  Task task) {
  return std::make_unique<Llama>(config, where, task);
}

}  // namespace engine
