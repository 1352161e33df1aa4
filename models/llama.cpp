#include "models/llama.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "models/blocks/attention.h"
#include "models/blocks/rope_table.h"
#include "models/config_reader.h"

namespace engine {
namespace {

class Llama final : public Model {
 public:
  Llama(const nlohmann::ordered_json& json, const std::string& where, Task task) : Model(json) {
    const nlohmann::json plain = json;
    const ConfigReader config(plain, where);
    info_.family = "llama";
    info_.task = task;
    info_.architecture =
        task == Task::causal_lm ? "LlamaForCausalLM" : "LlamaForSequenceClassification";
    info_.vocab_size = config.integer("vocab_size", 32000);
    info_.hidden_size = config.integer("hidden_size", 4096);
    info_.intermediate_size = config.integer("intermediate_size", 11008);
    info_.num_layers = static_cast<int>(config.integer("num_hidden_layers", 32));
    info_.num_heads = static_cast<int>(config.integer("num_attention_heads", 32));
    info_.num_kv_heads = static_cast<int>(config.integer("num_key_value_heads", info_.num_heads));
    info_.max_positions = config.integer("max_position_embeddings", 2048);
    info_.tied_head = config.boolean("tie_word_embeddings", false);
    info_.bos_ids = config.ids("bos_token_id");
    info_.eos_ids = config.ids("eos_token_id");
    info_.pad_ids = config.ids("pad_token_id");
    if (info_.num_heads % info_.num_kv_heads != 0) {
      config.invalid("num_key_value_heads",
                     "a divisor of num_attention_heads = " + std::to_string(info_.num_heads),
                     std::to_string(info_.num_kv_heads));
    }
    if (!config.has("head_dim") && info_.hidden_size % info_.num_heads != 0) {
      config.invalid("hidden_size", "a multiple of num_attention_heads, or a head_dim",
                     std::to_string(info_.hidden_size));
    }
    info_.head_dim =
        static_cast<int>(config.integer("head_dim", info_.hidden_size / info_.num_heads));
    if (info_.head_dim % 2 != 0) {
      config.invalid("head_dim", "an even number", std::to_string(info_.head_dim));
    }
    rope_config_ = read_rope_config(config, 10000.0f);
    const float eps = config.number("rms_norm_eps", 1e-6f);
    const float std = config.number("initializer_range", 0.02f);
    if (const std::string act = config.string("hidden_act", "silu"); act != "silu") {
      config.unsupported("hidden_act", act, "silu");
    }
    const bool attention_bias = config.boolean("attention_bias", false);
    const bool mlp_bias = config.boolean("mlp_bias", false);
    attention_dropout_ = config.number("attention_dropout", 0.0f);

    const int64_t h = info_.hidden_size, f = info_.intermediate_size;
    const int64_t q = int64_t{info_.num_heads} * info_.head_dim;
    const int64_t kv = int64_t{info_.num_kv_heads} * info_.head_dim;
    const auto normal = Initializer::normal(std);
    const auto rms_norm = [&](const std::string& name) {
      return NormParameters{.kind = kernels::NormKind::rms_llama,
                            .weight = &parameters_.add(name, {h}, Initializer::ones()),
                            .eps = eps};
    };
    // The matrices of `names` stacked by rows into one, so that one matmul serves all.
    const auto stacked = [&](const std::string& prefix, std::vector<std::string> names,
                             std::vector<int64_t> rows, int64_t columns, bool bias) {
      std::vector<ParameterPart> weights, biases;
      for (size_t i = 0; i < names.size(); ++i) {
        weights.push_back({prefix + names[i] + ".weight", {rows[i], columns}, 0, normal});
        biases.push_back({prefix + names[i] + ".bias", {rows[i]}, 0, Initializer::zeros()});
      }
      Projection projection{&parameters_.add_stacked(std::move(weights)), nullptr};
      if (bias) projection.bias = &parameters_.add_stacked(std::move(biases));
      return projection;
    };

    token_table_ = &parameters_.add("model.embed_tokens.weight", {info_.vocab_size, h}, normal);
    if (!info_.pad_ids.empty() && info_.pad_ids[0] < info_.vocab_size) {
      token_table_->padding_row = info_.pad_ids[0];  // nn.Embedding(padding_idx)
    }
    for (int i = 0; i < info_.num_layers; ++i) {
      const std::string p = "model.layers." + std::to_string(i) + ".";
      Layer layer;
      layer.norm1 = rms_norm(p + "input_layernorm.weight");
      layer.qkv =
          stacked(p + "self_attn.", {"q_proj", "k_proj", "v_proj"}, {q, kv, kv}, h, attention_bias);
      layer.attention_out = stacked(p + "self_attn.", {"o_proj"}, {h}, q, attention_bias);
      layer.norm2 = rms_norm(p + "post_attention_layernorm.weight");
      layer.gate_up = stacked(p + "mlp.", {"gate_proj", "up_proj"}, {f, f}, h, mlp_bias);
      layer.down = stacked(p + "mlp.", {"down_proj"}, {h}, f, mlp_bias);
      layers_.push_back(layer);
    }
    final_norm_ = rms_norm("model.norm.weight");
    if (task == Task::sequence_classification) {
      info_.num_labels = read_num_labels(config);
      head_ = &parameters_.add("score.weight", {info_.num_labels, h}, normal);
    } else {
      head_ = info_.tied_head ? token_table_
                              : &parameters_.add("lm_head.weight", {info_.vocab_size, h}, normal);
    }
  }

  int64_t matmul_parameters() const override {
    const int64_t h = info_.hidden_size, f = info_.intermediate_size;
    const int64_t q = int64_t{info_.num_heads} * info_.head_dim;
    const int64_t kv = int64_t{info_.num_kv_heads} * info_.head_dim;
    return info_.num_layers * (2 * h * q + 2 * h * kv + 3 * h * f) + head_->count();
  }

  void prepare(Runtime& runtime, int64_t max_positions) override {
    rope_ = make_rope_table(runtime, rope_config_, info_.head_dim, max_positions);
  }

  Variable hidden_states(Graph& graph, const ModelBatch& batch) override {
    Variable x = embedding(graph, {.ids = batch.input_ids, .table = token_table_});
    graph.probe("hidden.0", x);
    for (int i = 0; i < info_.num_layers; ++i) {
      x = graph.checkpoint(x, [this, &graph, batch, i](const Variable& input) {
        return layer_forward(graph, batch, i, input);
      });
      if (i + 1 < info_.num_layers) graph.probe("hidden." + std::to_string(i + 1), x);
    }
    const Normed out = add_norm(graph, x, {}, final_norm_);
    graph.probe("hidden." + std::to_string(info_.num_layers), out.y);
    return out.y;
  }

  bool ignorable(const std::string& name) const override {
    return name.ends_with(".rotary_emb.inv_freq") ||
           (info_.tied_head && name == "lm_head.weight") ||
           (info_.task == Task::sequence_classification && name == "lm_head.weight");
  }

 private:
  struct Projection {
    Parameter* weight = nullptr;
    Parameter* bias = nullptr;
  };
  struct Layer {
    NormParameters norm1, norm2;
    Projection qkv, attention_out, gate_up, down;
  };

  // config.json holds num_labels only when it is not 2, and id2label otherwise.
  static int read_num_labels(const ConfigReader& config) {
    if (config.has("num_labels")) return static_cast<int>(config.integer("num_labels", 2));
    const nlohmann::json* names = config.object("id2label");
    return names && !names->empty() ? static_cast<int>(names->size()) : 2;
  }

  static Variable apply(Graph& graph, const Variable& x, const Projection& projection) {
    return linear(graph, x, *projection.weight, projection.bias);
  }

  Variable layer_forward(Graph& graph, const ModelBatch& batch, int i, const Variable& x) {
    const Layer& layer = layers_[i];
    const AttentionConfig attention{.num_heads = info_.num_heads,
                                    .num_kv_heads = info_.num_kv_heads,
                                    .head_dim = info_.head_dim,
                                    .scale = 1.0f / std::sqrt(static_cast<float>(info_.head_dim)),
                                    .dropout = attention_dropout_};
    const Normed a = add_norm(graph, x, {}, layer.norm1);
    Variable qkv = apply(graph, a.y, layer.qkv);
    graph.discard(a.y);
    qkv = rope(graph, qkv, batch.positions, rope_, info_.num_heads + info_.num_kv_heads,
               info_.head_dim);
    Variable branch = cached_or_self_attention(graph, qkv, attention, batch, i);
    branch = apply(graph, branch, layer.attention_out);

    const Normed m = add_norm(graph, a.residual, branch, layer.norm2);
    const Variable gate_up = apply(graph, m.y, layer.gate_up);
    graph.discard(m.y);
    const Variable hidden = activation(graph, gate_up, kernels::Activation::silu, /*gated=*/true);
    branch = apply(graph, hidden, layer.down);
    graph.discard(hidden);
    return add(graph, m.residual, branch);
  }

  RopeConfig rope_config_;
  RopeTable rope_;
  float attention_dropout_;
  Parameter* token_table_;
  std::vector<Layer> layers_;
  NormParameters final_norm_;
};

}  // namespace

std::unique_ptr<Model> make_llama(const nlohmann::ordered_json& config, const std::string& where,
                                  Task task) {
  return std::make_unique<Llama>(config, where, task);
}

}  // namespace engine
