// Gemma 3, text: four norms in a layer, two of them on what the sublayers give before it is added;
// RMSNorm on the heads of q and k; gains stored as offsets from 1; GELU-gated MLP; embeddings times
// sqrt(hidden_size); most layers see a window, with rotary frequencies of their own.
//
// Two layouts: a text model (model_type gemma3_text), and the text tower inside a multimodal
// checkpoint (gemma3), whose vision tower is left out: what is saved is a text model.
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

using Json = nlohmann::ordered_json;

bool is_multimodal(const Json& config) {
  return config.value("model_type", "") == "gemma3";
}

// The config.json of the text model alone: its own, or made of a multimodal one.
Json text_config(const Json& config, const std::string& where) {
  if (!is_multimodal(config)) return config;
  Json text = Json::object();
  const nlohmann::json plain = config;
  if (ConfigReader(plain, where).object("text_config")) text = config["text_config"];
  text["architectures"] = {"Gemma3ForCausalLM"};
  text["model_type"] = "gemma3_text";
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings",
                          "initializer_range", "dtype", "torch_dtype", "transformers_version"}) {
    if (const auto outer = config.find(key); outer != config.end() && !text.contains(key)) {
      text[key] = *outer;
    }
  }
  return text;
}

class Gemma3 final : public DecoderModel {
 public:
  Gemma3(const Json& json, const std::string& where)
      : DecoderModel(text_config(json, where), "model.") {
    const nlohmann::json plain = config_json();
    const ConfigReader config(plain, where + (is_multimodal(json) ? ", text_config" : ""));
    info_ = {.family = "gemma3",
             .architecture = "Gemma3ForCausalLM",
             .vocab_size = 262208,
             .hidden_size = 2304,
             .intermediate_size = 9216,
             .num_layers = 26,
             .num_heads = 8,
             .num_kv_heads = 4,
             .head_dim = 256,
             .max_positions = 131072,
             .tied_head = true,
             .bos_ids = {2},
             .eos_ids = {1},
             .pad_ids = {0}};
    read_sizes(config);
    refuse_unsupported(config);
    const int64_t pattern = config.integer("sliding_window_pattern", 6);
    info_.windows = read_layer_windows(
        config, info_.num_layers,
        config.is_null("sliding_window") ? 0 : config.integer("sliding_window", 4096),
        [pattern](int layer) { return (layer + 1) % pattern != 0; });
    read_rope(config);
    const float eps = config.number("rms_norm_eps", 1e-6f);
    const auto activation = read_activation(config, "hidden_activation", "gelu_pytorch_tanh");
    const bool attention_bias = config.boolean("attention_bias", false);
    const auto init = Initializer::normal(config.number("initializer_range", 0.02f));
    AttentionConfig attention{
        .num_heads = info_.num_heads,
        .num_kv_heads = info_.num_kv_heads,
        .head_dim = info_.head_dim,
        .scale = 1.0f / std::sqrt(config.number("query_pre_attn_scalar", 256.0f)),
        .dropout = config.number("attention_dropout", 0.0f)};
    const auto rms_norm = [&](const std::string& name, int64_t size) {
      return add_rms_norm(name, size, kernels::NormKind::rms_gemma, eps);
    };

    const int64_t h = info_.hidden_size;
    add_token_table("embed_tokens.weight", init);
    for (int i = 0; i < info_.num_layers; ++i) {
      const std::string name = "layers." + std::to_string(i) + ".";
      attention.window = static_cast<int>(info_.windows[i]);
      Layer layer;
      layer.attention = add_rotary_attention(parameters_, {.prefix = prefix_ + name + "self_attn.",
                                                           .hidden_size = h,
                                                           .config = attention,
                                                           .qkv_bias = attention_bias,
                                                           .out_bias = attention_bias,
                                                           .init = init});
      layer.attention.head_norms = {.query = rms_norm(name + "self_attn.q_norm", info_.head_dim),
                                    .key = rms_norm(name + "self_attn.k_norm", info_.head_dim)};
      layer.mlp = add_gated_mlp(parameters_, {.prefix = prefix_ + name + "mlp.",
                                              .hidden_size = h,
                                              .intermediate_size = info_.intermediate_size,
                                              .activation = activation,
                                              .init = init});
      layer.before_attention = rms_norm(name + "input_layernorm", h);
      layer.after_attention = rms_norm(name + "post_attention_layernorm", h);
      layer.before_mlp = rms_norm(name + "pre_feedforward_layernorm", h);
      layer.after_mlp = rms_norm(name + "post_feedforward_layernorm", h);
      layers_.push_back(layer);
    }
    final_norm_ = rms_norm("norm", h);
    add_head(config, init);
  }

  void prepare(Runtime& runtime, int64_t max_positions) override {
    global_rope_ = make_rope_table(runtime, global_config_, info_.head_dim, max_positions);
    local_rope_ = make_rope_table(runtime, local_config_, info_.head_dim, max_positions);
  }

  std::vector<std::string> spellings(const std::string& name) const override {
    std::vector<std::string> names = DecoderModel::spellings(name);
    names.push_back("language_model." + name);
    if (name.starts_with(prefix_)) {
      names.push_back("model.language_model." + name.substr(prefix_.size()));
    }
    return names;
  }

  std::string saved_name(const std::string& name, const std::string& found) const override {
    // Of a multimodal checkpoint: config_json() is the text model's.
    return found.find("language_model.") != std::string::npos ? name : found;
  }

  bool ignorable(const std::string& name) const override {
    const std::string bare = name.starts_with("model.") ? name.substr(6) : name;
    return bare.starts_with("vision_tower.") || bare.starts_with("multi_modal_projector.") ||
           DecoderModel::ignorable(bare.starts_with("language_model.") ? bare.substr(15) : bare);
  }

 private:
  struct Layer {
    NormParameters before_attention, after_attention, before_mlp, after_mlp;
    RotaryAttention attention;
    GatedMlp mlp;
  };

  static void refuse_unsupported(const ConfigReader& config) {
    for (const char* key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
      if (config.has(key)) {
        config.unsupported(key, std::to_string(config.number(key, 0.0f)), "null, as in Gemma 3");
      }
    }
    if (config.boolean("use_bidirectional_attention", false)) {
      config.unsupported("use_bidirectional_attention", "true", "false");
    }
  }

  // transformers 5 writes an object for each type of layer; before, the scaling was for the layers
  // that see everything, and only the base of the others was given.
  void read_rope(const ConfigReader& config) {
    constexpr float kGlobalTheta = 1e6f, kLocalTheta = 1e4f;
    const nlohmann::json* types = config.object("rope_parameters");
    if (!types) {
      global_config_ = read_rope_config(config, kGlobalTheta);
      local_config_.theta = config.number("rope_local_base_freq", kLocalTheta);
      return;
    }
    const ConfigReader reader(*types, config.where() + ", rope_parameters");
    const auto read = [&](const char* type, float theta) {
      const nlohmann::json* parameters = reader.object(type);
      if (!parameters) reader.invalid(type, "the parameters of this type of layer", "nothing");
      return read_rope_parameters(ConfigReader(*parameters, reader.where() + ", " + type), theta);
    };
    global_config_ = read("full_attention", kGlobalTheta);
    local_config_ = read("sliding_attention", kLocalTheta);
  }

  Variable embed(Graph& graph, const ModelBatch& batch) override {
    // Rounded as the table is: in bf16 33.94 (1B) becomes 34, 50.6 (4B) becomes 50.5.
    float scale = std::sqrt(static_cast<float>(info_.hidden_size));
    if (graph.precision().compute == DType::bf16) {
      scale = static_cast<float>(kernels::BFloat16(scale));
    }
    return embedding(graph, {.ids = batch.input_ids, .table = token_table_, .scale = scale});
  }

  Variable layer(Graph& graph, const ModelBatch& batch, int i, const Variable& x) override {
    const Layer& layer = layers_[i];
    const RopeTable& rope = info_.windows[i] > 0 ? local_rope_ : global_rope_;
    const Normed a = add_norm(graph, x, {}, layer.before_attention);
    const Normed m =
        add_norm(graph, a.residual,
                 norm(graph, rotary_attention(graph, a.y, layer.attention, {batch, rope, i}),
                      layer.after_attention),
                 layer.before_mlp);
    return add(graph, m.residual,
               norm(graph, gated_mlp(graph, {}, m.y, layer.mlp), layer.after_mlp));
  }

  RopeConfig global_config_, local_config_;
  RopeTable global_rope_, local_rope_;
  std::vector<Layer> layers_;
};

}  // namespace

std::unique_ptr<Model> make_gemma3(const Json& config, const std::string& where, Task) {
  return std::make_unique<Gemma3>(config, where);
}

}  // namespace engine
