// RoBERTa (Liu et al. 2019) and XLM-RoBERTa as classifiers: a bidirectional encoder with learned
// positions, LayerNorm behind each addition, GELU (erf form); the head is a dense layer with tanh
// and a projection, on the first token. Reference: models.md 6, HF's
// RobertaForSequenceClassification.
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/blocks/activation.h"
#include "models/blocks/residual.h"
#include "models/classifier_config.h"
#include "models/config_reader.h"
#include "models/registry.h"

namespace engine {
namespace {

class Roberta final : public Model {
 public:
  Roberta(const nlohmann::ordered_json& json, const std::string& where) : Model(json) {
    const nlohmann::json plain = json;
    const ConfigReader config(plain, where);
    const bool multilingual = config.string("model_type", "roberta") == "xlm-roberta";
    info_.family = multilingual ? "xlm-roberta" : "roberta";
    info_.architecture =
        multilingual ? "XLMRobertaForSequenceClassification" : "RobertaForSequenceClassification";
    info_.task = Task::sequence_classification;
    info_.causal = false;
    info_.pooling = Pooling::first_token;
    info_.learned_positions = true;
    info_.vocab_size = config.integer("vocab_size", multilingual ? 30522 : 50265);
    info_.hidden_size = config.integer("hidden_size", 768);
    info_.intermediate_size = config.integer("intermediate_size", 3072);
    info_.num_layers = config.layers("num_hidden_layers", 12);
    info_.num_heads = info_.num_kv_heads =
        static_cast<int>(config.integer("num_attention_heads", 12));
    if (info_.hidden_size % info_.num_heads != 0) {
      config.invalid("hidden_size",
                     "a multiple of num_attention_heads = " + std::to_string(info_.num_heads),
                     std::to_string(info_.hidden_size));
    }
    info_.head_dim = static_cast<int>(info_.hidden_size / info_.num_heads);
    info_.bos_ids = config.ids("bos_token_id", {0});
    info_.eos_ids = config.ids("eos_token_id", {2});
    if (json.contains("pad_token_id") && !config.has("pad_token_id")) {
      config.invalid("pad_token_id", "a token id: positions are counted from it", "null");
    }
    padding_id_ = static_cast<int32_t>(config.integer("pad_token_id", 1, 0));
    info_.pad_ids = {padding_id_};
    if (padding_id_ >= info_.vocab_size) {
      config.invalid("pad_token_id", "less than vocab_size = " + std::to_string(info_.vocab_size),
                     std::to_string(padding_id_));
    }
    // The first token has position padding id + 1.
    const int64_t position_rows = config.integer("max_position_embeddings", 512);
    info_.max_positions = position_rows - padding_id_ - 1;
    if (info_.max_positions < 1) {
      config.invalid("max_position_embeddings",
                     "more than pad_token_id + 1 = " + std::to_string(padding_id_ + 1),
                     std::to_string(position_rows));
    }
    const int64_t type_rows = config.integer("type_vocab_size", 2);
    eps_ = config.number("layer_norm_eps", 1e-12f);
    hidden_dropout_ = config.number("hidden_dropout_prob", 0.1f);
    attention_dropout_ = config.number("attention_probs_dropout_prob", 0.1f);
    classifier_dropout_ = config.number("classifier_dropout", hidden_dropout_);
    const float std = config.number("initializer_range", 0.02f);
    activation_ = read_activation(config, "hidden_act", "gelu");
    if (const std::string kind = config.string("position_embedding_type", "absolute");
        kind != "absolute") {
      config.unsupported("position_embedding_type", kind, "absolute");
    }
    if (config.boolean("is_decoder", false)) {
      config.unsupported("is_decoder", "true", "false: an encoder");
    }
    read_classifier_config(config, info_);
    add_parameters(position_rows, type_rows, Initializer::normal(std));
  }

  int64_t matmul_parameters() const override {  // the head sees one token of a sequence
    const int64_t h = info_.hidden_size, f = info_.intermediate_size;
    return info_.num_layers * (4 * h * h + 2 * h * f);
  }

  void prepare(Runtime&, int64_t) override {}

  Variable hidden_states(Graph& graph, const ModelBatch& batch) override {
    // All tokens are of type 0.
    const Tensor types =
        graph.runtime().transient(batch.input_ids.shape(), DType::i32, MemoryCategory::batch);
    graph.runtime().zero(types);
    const Variable words = embedding(graph, {.ids = batch.input_ids,
                                             .positions = types,
                                             .table = token_table_,
                                             .position_table = type_table_});
    const Variable positions = embedding(graph, {.ids = batch.positions, .table = position_table_});
    Variable x = add_norm(graph, add(graph, words, positions), {}, embedding_norm_).y;
    x = dropout(graph, x, hidden_dropout_);
    graph.probe("hidden.0", x);
    for (int i = 0; i < info_.num_layers; ++i) {
      x = graph.checkpoint(x, [this, &graph, batch, i](const Variable& input) {
        return layer_forward(graph, batch, i, input);
      });
      graph.probe("hidden." + std::to_string(i + 1), x);
    }
    return x;
  }

  Variable class_scores(Graph& graph, const Variable& hidden, const ModelBatch& batch) override {
    Variable x = gather_rows(graph, hidden, batch.pooled_rows);
    x = dropout(graph, x, classifier_dropout_);
    x = activation(graph, project(graph, x, head_dense_), kernels::Activation::tanh,
                   /*gated=*/false);
    x = dropout(graph, x, classifier_dropout_);
    return project(graph, x, head_out_);
  }

  std::vector<int32_t> position_ids(std::span<const int32_t> input_ids,
                                    std::span<const int32_t> cu_seqlens,
                                    std::span<const int32_t>) const override {
    std::vector<int32_t> positions(input_ids.size(), padding_id_);
    for (size_t s = 0; s + 1 < cu_seqlens.size(); ++s) {
      int32_t position = padding_id_;
      for (int32_t t = cu_seqlens[s]; t < cu_seqlens[s + 1]; ++t) {
        if (input_ids[t] != padding_id_) positions[t] = ++position;
      }
    }
    return positions;
  }

  std::vector<std::string> spellings(const std::string& name) const override {
    std::vector<std::string> names = {name};
    // Files of the bare encoder have no prefix.
    if (name.starts_with(kPrefix)) names.push_back(name.substr(kPrefix.size()));
    // Old files have the names of TensorFlow.
    for (const auto& [now, then] :
         {std::pair{"LayerNorm.weight", "LayerNorm.gamma"}, {"LayerNorm.bias", "LayerNorm.beta"}}) {
      if (!name.ends_with(now)) continue;
      for (size_t i = 0, n = names.size(); i < n; ++i) {
        names.push_back(names[i].substr(0, names[i].size() - std::string_view(now).size()) + then);
      }
    }
    return names;
  }

  bool ignorable(const std::string& name) const override {
    std::string_view bare = name;
    if (bare.starts_with(kPrefix)) bare.remove_prefix(kPrefix.size());
    return bare.starts_with("lm_head.") || bare.starts_with("pooler.") ||
           bare == "embeddings.position_ids" || bare == "embeddings.token_type_ids";
  }

  bool may_be_new(const std::string& name) const override {
    return name.starts_with("classifier.");
  }

 private:
  static constexpr std::string_view kPrefix = "roberta.";

  struct Layer {
    Projection qkv, attention_out, up, down;
    NormParameters norm1, norm2;
  };

  void add_parameters(int64_t position_rows, int64_t type_rows, Initializer normal) {
    const int64_t h = info_.hidden_size, f = info_.intermediate_size;
    const auto linear = [&](const std::string& prefix, const std::vector<std::string>& names,
                            int64_t rows, int64_t columns) {
      ProjectionShape shape{.prefix = prefix, .inputs = columns, .bias = true, .init = normal};
      for (const std::string& name : names) shape.outputs.push_back({name, rows});
      return add_projection(parameters_, shape);
    };
    const auto layer_norm = [&](const std::string& name) {
      NormParameters norm{.kind = kernels::NormKind::layer_norm, .eps = eps_};
      norm.weight = &parameters_.add(name + ".weight", {h}, Initializer::ones());
      norm.bias = &parameters_.add(name + ".bias", {h}, Initializer::zeros());
      norm.weight->is_layer_norm = norm.bias->is_layer_norm = true;
      return norm;
    };
    const std::string root(kPrefix);
    const std::string embeddings = root + "embeddings.";
    token_table_ =
        &parameters_.add(embeddings + "word_embeddings.weight", {info_.vocab_size, h}, normal);
    position_table_ =
        &parameters_.add(embeddings + "position_embeddings.weight", {position_rows, h}, normal);
    token_table_->padding_row = position_table_->padding_row = padding_id_;
    type_table_ =
        &parameters_.add(embeddings + "token_type_embeddings.weight", {type_rows, h}, normal);
    embedding_norm_ = layer_norm(embeddings + "LayerNorm");
    for (int i = 0; i < info_.num_layers; ++i) {
      const std::string p = root + "encoder.layer." + std::to_string(i) + ".";
      Layer layer;
      layer.qkv = linear(p + "attention.self.", {"query", "key", "value"}, h, h);
      layer.attention_out = linear(p + "attention.output.", {"dense"}, h, h);
      layer.norm1 = layer_norm(p + "attention.output.LayerNorm");
      layer.up = linear(p + "intermediate.", {"dense"}, f, h);
      layer.down = linear(p + "output.", {"dense"}, h, f);
      layer.norm2 = layer_norm(p + "output.LayerNorm");
      layers_.push_back(layer);
    }
    head_dense_ = linear("classifier.", {"dense"}, h, h);
    head_out_ = linear("classifier.", {"out_proj"}, info_.num_labels, h);
    head_ = head_out_.weight;
  }

  Variable layer_forward(Graph& graph, const ModelBatch& batch, int i, const Variable& x) {
    const Layer& layer = layers_[i];
    const AttentionConfig attention{.num_heads = info_.num_heads,
                                    .num_kv_heads = info_.num_kv_heads,
                                    .head_dim = info_.head_dim,
                                    .scale = 1.0f / std::sqrt(static_cast<float>(info_.head_dim)),
                                    .causal = false,
                                    .dropout = attention_dropout_};
    const Variable heads =
        self_attention(graph, project(graph, x, layer.qkv), attention, batch.sequences);
    const Sum middle = project_onto(graph, {x, hidden_dropout_}, heads, layer.attention_out);
    const Variable m = add_norm(graph, middle, layer.norm1).y;
    graph.discard(x);
    const FeedForward block{.up = layer.up.weight,
                            .up_bias = layer.up.bias,
                            .down = layer.down.weight,
                            .down_bias = layer.down.bias,
                            .activation = activation_};
    return add_norm(graph, feed_forward_onto(graph, {m, hidden_dropout_}, m, block), layer.norm2).y;
  }

  int32_t padding_id_ = 1;
  float eps_ = 1e-12f;
  float hidden_dropout_ = 0.0f, attention_dropout_ = 0.0f, classifier_dropout_ = 0.0f;
  kernels::Activation activation_ = kernels::Activation::gelu_erf;
  Parameter* token_table_ = nullptr;
  Parameter* position_table_ = nullptr;
  Parameter* type_table_ = nullptr;
  NormParameters embedding_norm_;
  std::vector<Layer> layers_;
  Projection head_dense_, head_out_;
};

}  // namespace

std::unique_ptr<Model> make_roberta(const nlohmann::ordered_json& config, const std::string& where,
                                    Task /*sequence_classification*/) {
  return std::make_unique<Roberta>(config, where);
}

}  // namespace engine
