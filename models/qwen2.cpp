// Qwen2 and Qwen2.5: Llama with biases on q, k and v, and with windows in the upper layers where
// the config asks for them.
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/blocks/activation.h"
#include "models/blocks/attention.h"
#include "models/blocks/decoder_model.h"
#include "models/blocks/gated_mlp.h"
#include "models/blocks/layer_types.h"
#include "models/blocks/rope_table.h"
#include "models/registry.h"

namespace engine {
namespace {

class Qwen2 final : public DecoderModel {
 public:
  Qwen2(const nlohmann::ordered_json& json, const std::string& where, Task task)
      : DecoderModel(json, "model.") {
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
    rope_config_ = read_rope_config(config, 10000.0f);
    const float eps = config.number("rms_norm_eps", 1e-6f);
    const auto activation = read_activation(config, "hidden_act", "silu");
    const auto init = Initializer::normal(config.number("initializer_range", 0.02f));
    AttentionConfig attention{.num_heads = info_.num_heads,
                              .num_kv_heads = info_.num_kv_heads,
                              .head_dim = info_.head_dim,
                              .scale = 1.0f / std::sqrt(static_cast<float>(info_.head_dim)),
                              .dropout = config.number("attention_dropout", 0.0f)};
    const int64_t h = info_.hidden_size;
    const auto rms_norm = [&](const std::string& name) {
      return add_rms_norm(name, h, kernels::NormKind::rms_llama, eps);
    };

    add_token_table("embed_tokens.weight", init);
    for (int i = 0; i < info_.num_layers; ++i) {
      const std::string name = "layers." + std::to_string(i) + ".";
      attention.window = static_cast<int>(info_.windows[i]);
      Layer layer;
      layer.norm1 = rms_norm(name + "input_layernorm");
      layer.attention = add_rotary_attention(parameters_, {.prefix = prefix_ + name + "self_attn.",
                                                           .hidden_size = h,
                                                           .config = attention,
                                                           .qkv_bias = true,
                                                           .init = init});
      layer.norm2 = rms_norm(name + "post_attention_layernorm");
      layer.mlp = add_gated_mlp(parameters_, {.prefix = prefix_ + name + "mlp.",
                                              .hidden_size = h,
                                              .intermediate_size = info_.intermediate_size,
                                              .activation = activation,
                                              .init = init});
      layers_.push_back(layer);
    }
    final_norm_ = rms_norm("norm");
    add_head(config, init);
  }

  void prepare(Runtime& runtime, int64_t max_positions) override {
    rope_ = make_rope_table(runtime, rope_config_, info_.head_dim, max_positions);
  }

 private:
  struct Layer {
    NormParameters norm1, norm2;
    RotaryAttention attention;
    GatedMlp mlp;
  };

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

  Variable layer(Graph& graph, const ModelBatch& batch, int i, const Variable& x) override {
    const Layer& layer = layers_[i];
    const Normed a = add_norm(graph, x, {}, layer.norm1);
    const Variable middle =
        rotary_attention(graph, a.y, layer.attention, {batch, rope_, i, a.residual});
    const Normed m = add_norm(graph, middle, {}, layer.norm2);
    return gated_mlp(graph, m.residual, m.y, layer.mlp);
  }

  RopeConfig rope_config_;
  RopeTable rope_;
  std::vector<Layer> layers_;
};

}  // namespace

std::unique_ptr<Model> make_qwen2(const nlohmann::ordered_json& config, const std::string& where,
                                  Task task) {
  return std::make_unique<Qwen2>(config, where, task);
}

}  // namespace engine
