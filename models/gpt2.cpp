// GPT-2 and DistilGPT-2: LayerNorm before each sublayer, learned positions, GELU, biases
// everywhere, matrices stored [in, out], tied head.
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/blocks/activation.h"
#include "models/blocks/attention.h"
#include "models/blocks/decoder_model.h"
#include "models/blocks/residual.h"
#include "models/registry.h"

namespace engine {
namespace {

class Gpt2 final : public DecoderModel {
 public:
  Gpt2(const nlohmann::ordered_json& json, const std::string& where)
      : DecoderModel(json, "transformer.") {
    const nlohmann::json plain = json;
    const ConfigReader config(plain, where);
    info_.family = "gpt2";
    info_.architecture = "GPT2LMHeadModel";
    info_.vocab_size = config.integer("vocab_size", 50257);
    info_.hidden_size = config.integer("n_embd", 768);
    info_.num_layers = config.layers("n_layer", 12);
    info_.num_heads = info_.num_kv_heads = static_cast<int>(config.integer("n_head", 12));
    info_.max_positions = config.integer("n_positions", 1024);
    info_.learned_positions = true;
    info_.intermediate_size = config.integer("n_inner", 4 * info_.hidden_size);
    if (info_.hidden_size % info_.num_heads != 0) {
      config.invalid("n_embd", "a multiple of n_head = " + std::to_string(info_.num_heads),
                     std::to_string(info_.hidden_size));
    }
    info_.head_dim = static_cast<int>(info_.hidden_size / info_.num_heads);
    info_.bos_ids = config.ids("bos_token_id");
    info_.eos_ids = config.ids("eos_token_id");
    info_.pad_ids = config.ids("pad_token_id");
    info_.tied_head = config.boolean("tie_word_embeddings", true);
    if (config.boolean("add_cross_attention", false)) {
      config.unsupported("add_cross_attention", "true", "false");
    }
    eps_ = config.number("layer_norm_epsilon", 1e-5f);
    embedding_dropout_ = config.number("embd_pdrop", 0.1f);
    residual_dropout_ = config.number("resid_pdrop", 0.1f);
    attention_dropout_ = config.number("attn_pdrop", 0.1f);
    scale_weights_ = config.boolean("scale_attn_weights", true);
    scale_by_layer_ = config.boolean("scale_attn_by_inverse_layer_idx", false);
    const float std = config.number("initializer_range", 0.02f);
    activation_ = read_activation(config, "activation_function", "gelu_new");

    const int64_t c = info_.hidden_size, f = info_.intermediate_size;
    const auto normal = Initializer::normal(std);
    // Branches that write the residual stream start smaller, so that its variance does not grow
    // with depth (GPT-2 paper, section 2.3).
    const auto projection = Initializer::normal(std / std::sqrt(2.0f * info_.num_layers));
    const auto layer_norm = [&](const std::string& name) {
      NormParameters norm{.kind = kernels::NormKind::layer_norm, .eps = eps_};
      norm.weight = &parameters_.add(prefix_ + name + ".weight", {c}, Initializer::ones());
      norm.bias = &parameters_.add(prefix_ + name + ".bias", {c}, Initializer::zeros());
      norm.weight->is_layer_norm = norm.bias->is_layer_norm = true;
      return norm;
    };
    const auto conv1d = [&](const std::string& name, int64_t in, int64_t out, Initializer init) {
      return Projection{&parameters_.add(prefix_ + name + ".weight", {in, out}, init),
                        &parameters_.add(prefix_ + name + ".bias", {out}, Initializer::zeros()),
                        WeightLayout::in_out};
    };
    // No padding row here, whatever pad_token_id is: HF gives this nn.Embedding no padding_idx.
    token_table_ = &parameters_.add(prefix_ + "wte.weight", {info_.vocab_size, c}, normal);
    position_table_ = &parameters_.add(prefix_ + "wpe.weight", {info_.max_positions, c}, normal);
    for (int i = 0; i < info_.num_layers; ++i) {
      const std::string h = "h." + std::to_string(i) + ".";
      Layer layer;
      layer.norm1 = layer_norm(h + "ln_1");
      layer.qkv = conv1d(h + "attn.c_attn", c, 3 * c, normal);
      layer.attention_out = conv1d(h + "attn.c_proj", c, c, projection);
      layer.norm2 = layer_norm(h + "ln_2");
      layer.up = conv1d(h + "mlp.c_fc", c, f, normal);
      layer.down = conv1d(h + "mlp.c_proj", f, c, projection);
      layers_.push_back(layer);
    }
    final_norm_ = layer_norm("ln_f");
    add_head(config, normal);
  }

  int64_t matmul_parameters() const override {
    return DecoderModel::matmul_parameters() - position_table_->count();
  }

  void prepare(Runtime&, int64_t) override {}

  bool ignorable(const std::string& name) const override {
    return name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias") ||
           DecoderModel::ignorable(name);
  }

 private:
  struct Layer {
    NormParameters norm1, norm2;
    Projection qkv, attention_out, up, down;
  };

  Variable embed(Graph& graph, const ModelBatch& batch) override {
    const Variable x = embedding(graph, {.ids = batch.input_ids,
                                         .positions = batch.positions,
                                         .table = token_table_,
                                         .position_table = position_table_});
    return dropout(graph, x, embedding_dropout_);
  }

  Variable layer(Graph& graph, const ModelBatch& batch, int i, const Variable& x) override {
    const Layer& layer = layers_[i];
    float scale = scale_weights_ ? 1.0f / std::sqrt(static_cast<float>(info_.head_dim)) : 1.0f;
    if (scale_by_layer_) scale /= static_cast<float>(i + 1);
    const AttentionConfig attention{.num_heads = info_.num_heads,
                                    .num_kv_heads = info_.num_kv_heads,
                                    .head_dim = info_.head_dim,
                                    .scale = scale,
                                    .dropout = attention_dropout_};
    const Normed a = add_norm(graph, x, {}, layer.norm1);
    const Variable qkv = project(graph, a.y, layer.qkv);
    graph.discard(a.y);
    const Variable heads = cached_or_self_attention(graph, qkv, attention, batch, i);
    const Sum middle =
        project_onto(graph, {a.residual, residual_dropout_}, heads, layer.attention_out);
    const Normed m = add_norm(graph, middle, layer.norm2);
    const FeedForward block{.up = layer.up.weight,
                            .up_bias = layer.up.bias,
                            .down = layer.down.weight,
                            .down_bias = layer.down.bias,
                            .layout = WeightLayout::in_out,
                            .activation = activation_};
    return added(graph, feed_forward_onto(graph, {m.residual, residual_dropout_}, m.y, block));
  }

  float eps_, embedding_dropout_, residual_dropout_, attention_dropout_;
  bool scale_weights_, scale_by_layer_;
  kernels::Activation activation_;
  Parameter* position_table_;
  std::vector<Layer> layers_;
};

}  // namespace

std::unique_ptr<Model> make_gpt2(const nlohmann::ordered_json& config, const std::string& where,
                                 Task) {
  return std::make_unique<Gpt2>(config, where);
}

}  // namespace engine
