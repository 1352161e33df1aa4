#include "models/blocks/pre_norm_decoder.h"

#include <cmath>

#include "models/blocks/activation.h"

namespace engine {

void PreNormDecoder::build(const ConfigReader& config, const Biases& biases) {
  rope_config_ = read_rope_config(config, /*default_theta=*/10000.0f);
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
    attention.window = info_.windows.empty() ? 0 : static_cast<int>(info_.windows[i]);
    Layer layer;
    layer.before_attention = rms_norm(name + "input_layernorm");
    layer.attention = add_rotary_attention(parameters_, {.prefix = prefix_ + name + "self_attn.",
                                                         .hidden_size = h,
                                                         .config = attention,
                                                         .qkv_bias = biases.qkv,
                                                         .out_bias = biases.attention_out,
                                                         .init = init});
    layer.before_mlp = rms_norm(name + "post_attention_layernorm");
    layer.mlp = add_gated_mlp(parameters_, {.prefix = prefix_ + name + "mlp.",
                                            .hidden_size = h,
                                            .intermediate_size = info_.intermediate_size,
                                            .activation = activation,
                                            .bias = biases.mlp,
                                            .init = init});
    layers_.push_back(layer);
  }
  final_norm_ = rms_norm("norm");
  add_head(config, init);
}

void PreNormDecoder::prepare(Runtime& runtime, int64_t max_positions) {
  rope_ = make_rope_table(runtime, rope_config_, info_.head_dim, max_positions);
}

Variable PreNormDecoder::layer(Graph& graph, const ModelBatch& batch, int i, const Variable& x) {
  const Layer& layer = layers_[i];
  const Normed a = add_norm(graph, x, {}, layer.before_attention);
  const Variable middle =
      rotary_attention(graph, a.y, layer.attention, {batch, rope_, i, a.residual});
  const Normed m = add_norm(graph, middle, {}, layer.before_mlp);
  return gated_mlp(graph, m.residual, m.y, layer.mlp);
}

}  // namespace engine
