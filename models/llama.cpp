// Llama 1 to 3.x, and every model of its shape: RMSNorm before each sublayer, RoPE with HF's
// scalings, grouped-query attention, SwiGLU, tied or untied head, or a classification head.
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/blocks/activation.h"
#include "models/blocks/attention.h"
#include "models/blocks/decoder_model.h"
#include "models/blocks/gated_mlp.h"
#include "models/blocks/rope_table.h"
#include "models/registry.h"

namespace engine {
namespace {

class Llama final : public DecoderModel {
 public:
  Llama(const nlohmann::ordered_json& json, const std::string& where, Task task)
      : DecoderModel(json, "model.") {
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
    rope_config_ = read_rope_config(config, 10000.0f);
    const float eps = config.number("rms_norm_eps", 1e-6f);
    const auto activation = read_activation(config, "hidden_act", "silu");
    const bool attention_bias = config.boolean("attention_bias", false);
    const bool mlp_bias = config.boolean("mlp_bias", false);
    const auto init = Initializer::normal(config.number("initializer_range", 0.02f));
    const AttentionConfig attention{.num_heads = info_.num_heads,
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
      Layer layer;
      layer.norm1 = rms_norm(name + "input_layernorm");
      layer.attention = add_rotary_attention(parameters_, {.prefix = prefix_ + name + "self_attn.",
                                                           .hidden_size = h,
                                                           .config = attention,
                                                           .qkv_bias = attention_bias,
                                                           .out_bias = attention_bias,
                                                           .init = init});
      layer.norm2 = rms_norm(name + "post_attention_layernorm");
      layer.mlp = add_gated_mlp(parameters_, {.prefix = prefix_ + name + "mlp.",
                                              .hidden_size = h,
                                              .intermediate_size = info_.intermediate_size,
                                              .activation = activation,
                                              .bias = mlp_bias,
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

std::unique_ptr<Model> make_llama(const nlohmann::ordered_json& config, const std::string& where,
                                  Task task) {
  return std::make_unique<Llama>(config, where, task);
}

}  // namespace engine
