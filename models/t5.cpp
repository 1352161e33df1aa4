// T5 v1.0 and v1.1 (Flan-T5) and mT5: an encoder and a decoder with relative position biases.
#include <cmath>
#include <nlohmann/json.hpp>

#include "models/blocks/activation.h"
#include "models/blocks/attention.h"
#include "models/blocks/relative_bias.h"
#include "models/blocks/residual.h"
#include "models/config_reader.h"
#include "models/registry.h"

namespace engine {
namespace {

// No position is out of reach of a relative bias; attention addresses this many keys.
constexpr int64_t kMaxPositions = int64_t{1} << 20;

class T5 final : public Model {
 public:
  T5(const nlohmann::ordered_json& json, const std::string& where) : Model(json) {
    const nlohmann::json plain = json;
    const ConfigReader config(plain, where);
    info_.family = config.string("model_type", "t5");
    info_.architecture =
        info_.family == "mt5" ? "MT5ForConditionalGeneration" : "T5ForConditionalGeneration";
    info_.vocab_size = config.integer("vocab_size", 32128);
    info_.hidden_size = config.integer("d_model", 512);
    info_.intermediate_size = config.integer("d_ff", 2048);
    info_.encoder_decoder = true;
    info_.num_encoder_layers = config.layers("num_layers", 6);
    info_.num_layers = config.layers("num_decoder_layers", info_.num_encoder_layers);
    info_.num_heads = info_.num_kv_heads = static_cast<int>(config.integer("num_heads", 8));
    info_.head_dim = static_cast<int>(config.integer("d_kv", 64, 1, 1 << 16));
    info_.max_positions = kMaxPositions;
    info_.eos_ids = ids_or(config, "eos_token_id", 1);
    info_.pad_ids = ids_or(config, "pad_token_id", 0);
    info_.bos_ids = config.ids("bos_token_id");
    const int64_t start = config.integer("decoder_start_token_id",
                                         info_.pad_ids.empty() ? 0 : info_.pad_ids.front(), 0);
    if (start >= info_.vocab_size) {
      config.invalid("decoder_start_token_id", "an id of the vocabulary", std::to_string(start));
    }
    info_.decoder_start_id = static_cast<int32_t>(start);
    // transformers 4 says with one key whether the head is the embedding table and whether its
    // input is scaled; 5 writes the answer as scale_decoder_outputs, and true in the old key. The
    // head of mT5 is its own, whatever the key says.
    const bool mt5 = info_.family == "mt5";
    info_.tied_head = !mt5 && config.boolean("scale_decoder_outputs",
                                             config.boolean("tie_word_embeddings", true));
    if (info_.tied_head) {
      info_.logit_scale = 1.0f / std::sqrt(static_cast<float>(info_.hidden_size));
    }
    eps_ = config.number("layer_norm_epsilon", 1e-6f);
    dropout_ = config.number("dropout_rate", 0.1f);
    read_feed_forward(config);
    make_parameters(config);
    // transformers has no defaults for these.
    nlohmann::ordered_json complete = json;
    complete["is_encoder_decoder"] = true;
    complete["decoder_start_token_id"] = info_.decoder_start_id;
    complete["pad_token_id"] = *pair_pad_id(info_);
    config_json_ = std::make_shared<const nlohmann::ordered_json>(std::move(complete));
  }

  int64_t matmul_parameters() const override {
    // Self-attention, queries and output of cross-attention, feed-forward, head.
    return info_.num_layers * (6 * attention_matrix() + feed_forward()) + head_->count();
  }
  int64_t source_matmul_parameters() const override {
    return info_.num_encoder_layers * (4 * attention_matrix() + feed_forward()) +
           info_.num_layers * 2 * attention_matrix();
  }

  void prepare(Runtime& runtime, int64_t max_positions) override {
    encoder_.bias.prepare(runtime, max_positions);
    decoder_.bias.prepare(runtime, max_positions);
  }

  Variable hidden_states(Graph& graph, const ModelBatch& batch) override {
    // Generation encodes with the first tokens of the decoder; later the cache has what cross-
    // attention reads.
    const Variable encoded = batch.source_ids ? encode(graph, batch) : Variable();
    return decode(graph, batch, encoded);
  }

  std::vector<std::string> spellings(const std::string& name) const override {
    // One table for both stacks; files may hold it under any of its names. transformers 5 also
    // saves models whose head is the table without being scaled: the head begins as it then.
    const std::vector<std::string> table = {"shared.weight", "encoder.embed_tokens.weight",
                                            "decoder.embed_tokens.weight"};
    if (name == table[0]) return table;
    if (name == "lm_head.weight") return {name, table[0], table[1], table[2]};
    return {name};
  }
  std::string saved_name(const std::string& name, const std::string& found) const override {
    return name == "lm_head.weight" ? name : found;
  }

  bool ignorable(const std::string& name) const override {
    return name == "encoder.embed_tokens.weight" || name == "decoder.embed_tokens.weight" ||
           // In files of v1.0; cross-attention has no bias.
           name == "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight" ||
           (info_.tied_head && name == "lm_head.weight");
  }

 private:
  struct Attention {
    NormParameters norm;
    Parameter* qkv = nullptr;  // self-attention: queries, keys and values
    Parameter* q = nullptr;    // cross-attention
    Parameter* kv = nullptr;
    Parameter* out = nullptr;
  };
  struct Layer {
    Attention self, cross;  // cross: decoder only
    NormParameters feed_forward_norm;
    FeedForward feed_forward;
  };
  struct Stack {
    std::string name;  // "encoder"
    RelativeBias bias;
    std::vector<Layer> layers;
    NormParameters final_norm;
  };

  int64_t inner() const { return int64_t{info_.num_heads} * info_.head_dim; }
  int64_t attention_matrix() const { return info_.hidden_size * inner(); }
  int64_t feed_forward() const {
    return (gated_ ? 3 : 2) * info_.hidden_size * info_.intermediate_size;
  }

  static std::vector<int32_t> ids_or(const ConfigReader& config, const char* key, int32_t id) {
    return config.has(key) ? config.ids(key) : std::vector<int32_t>{id};
  }

  // feed_forward_proj is "relu", "gated-gelu", ...: what transformers derives from it may also be
  // written down, and counts then.
  void read_feed_forward(const ConfigReader& config) {
    const std::string projection =
        config.string("feed_forward_proj", info_.family == "mt5" ? "gated-gelu" : "relu");
    const std::string kGated = "gated-";
    gated_ = projection.starts_with(kGated);
    std::string name = gated_ ? projection.substr(kGated.size()) : projection;
    if (projection == "gated-gelu") name = "gelu_new";
    gated_ = config.boolean("is_gated_act", gated_);
    name = config.string("dense_act_fn", name);
    const auto activation = find_activation(name);
    if (!activation) {
      config.unsupported("feed_forward_proj", projection,
                         "relu, gelu, gelu_new or silu, or one of them behind \"gated-\"");
    }
    activation_ = *activation;
  }

  // Names and initialisation as in transformers: std is what keeps activations of size 1 without a
  // scale of the attention scores, times initializer_factor.
  void make_parameters(const ConfigReader& config) {
    const float factor = config.number("initializer_factor", 1.0f);
    const int64_t d = info_.hidden_size, ff = info_.intermediate_size, width = inner();
    const auto normal = [&](int64_t fan_in) {
      return Initializer::normal(factor / std::sqrt(static_cast<float>(fan_in)));
    };
    const auto norm = [&](const std::string& name) {
      return NormParameters{
          .kind = kernels::NormKind::rms_t5,
          .weight = &parameters_.add(name + ".weight", {d}, Initializer::constant(factor)),
          .eps = eps_};
    };
    const Initializer q_init = normal(d * info_.head_dim), in_init = normal(d);
    const auto self_attention = [&](const std::string& layer, Stack& stack, bool first) {
      const std::string name = layer + ".SelfAttention.";
      Attention attention{};
      attention.qkv = &parameters_.add_stacked({{name + "q.weight", {width, d}, 0, q_init},
                                                {name + "k.weight", {width, d}, 0, in_init},
                                                {name + "v.weight", {width, d}, 0, in_init}});
      attention.out = &parameters_.add(name + "o.weight", {d, width}, normal(width));
      if (first) {
        const RelativeBuckets buckets = read_relative_buckets(config, &stack == &encoder_);
        stack.bias =
            RelativeBias(buckets, parameters_.add(name + "relative_attention_bias.weight",
                                                  {buckets.num_buckets, info_.num_heads}, in_init));
      }
      attention.norm = norm(layer + ".layer_norm");
      return attention;
    };
    const auto cross_attention = [&](const std::string& layer) {
      const std::string name = layer + ".EncDecAttention.";
      Attention attention{};
      attention.q = &parameters_.add(name + "q.weight", {width, d}, q_init);
      attention.kv = &parameters_.add_stacked({{name + "k.weight", {width, d}, 0, in_init},
                                               {name + "v.weight", {width, d}, 0, in_init}});
      attention.out = &parameters_.add(name + "o.weight", {d, width}, normal(width));
      attention.norm = norm(layer + ".layer_norm");
      return attention;
    };
    const auto feed_forward = [&](const std::string& layer) {
      const std::string name = layer + ".DenseReluDense.";
      std::vector<ParameterPart> in = {{name + "wi.weight", {ff, d}, 0, in_init}};
      if (gated_) {
        in = {{name + "wi_0.weight", {ff, d}, 0, in_init},
              {name + "wi_1.weight", {ff, d}, 0, in_init}};
      }
      FeedForward block{.activation = activation_, .gated = gated_, .dropout = dropout_};
      block.up = &parameters_.add_stacked(std::move(in));
      block.down = &parameters_.add(name + "wo.weight", {d, ff}, normal(ff));
      return block;
    };
    const auto fill = [&](Stack& stack, const std::string& name, int layers, bool decoder) {
      stack.name = name;
      for (int i = 0; i < layers; ++i) {
        const std::string block = name + ".block." + std::to_string(i) + ".layer.";
        Layer layer;
        layer.self = self_attention(block + "0", stack, i == 0);
        if (decoder) layer.cross = cross_attention(block + "1");
        const std::string last = block + (decoder ? "2" : "1");
        layer.feed_forward = feed_forward(last);
        layer.feed_forward_norm = norm(last + ".layer_norm");
        stack.layers.push_back(layer);
      }
      stack.final_norm = norm(name + ".final_layer_norm");
    };
    const Initializer table_init = Initializer::normal(factor);
    table_ = &parameters_.add("shared.weight", {info_.vocab_size, d}, table_init);
    fill(encoder_, "encoder", info_.num_encoder_layers, false);
    fill(decoder_, "decoder", info_.num_layers, true);
    head_ = info_.tied_head ? table_
                            : &parameters_.add("lm_head.weight", {info_.vocab_size, d}, table_init);
  }

  AttentionConfig attention_config(bool causal, const DistanceBias& bias) const {
    return {.num_heads = info_.num_heads,
            .num_kv_heads = info_.num_heads,
            .head_dim = info_.head_dim,
            .scale = 1.0f,  // the initialisation of q has it
            .causal = causal,
            .dropout = dropout_,
            .bias = bias};
  }

  static Variable apply(Graph& graph, const Variable& x, Parameter* weight) {
    return linear(graph, x, *weight, nullptr);
  }

  // What every stack begins and ends with.
  Variable embed(Graph& graph, const Tensor& ids, const Stack& stack) const {
    const Variable x = dropout(graph, embedding(graph, {.ids = ids, .table = table_}), dropout_);
    graph.probe(stack.name + ".hidden.0", x);
    return x;
  }
  Variable finish(Graph& graph, const Variable& x, const Stack& stack) const {
    const Variable y = dropout(graph, add_norm(graph, x, {}, stack.final_norm).y, dropout_);
    graph.probe(stack.name + ".hidden." + std::to_string(stack.layers.size()), y);
    return y;
  }
  // HF's hidden_states: the last entry is after the final norm.
  static void probe_layer(Graph& graph, const Variable& x, const Stack& stack, size_t i) {
    if (i + 1 < stack.layers.size()) {
      graph.probe(stack.name + ".hidden." + std::to_string(i + 1), x);
    }
  }

  Variable encode(Graph& graph, const ModelBatch& batch) const {
    Variable x = embed(graph, batch.source_ids, encoder_);
    const AttentionConfig attention =
        attention_config(false, encoder_.bias.of_length(graph, batch.source_sequences.max_length));
    for (size_t i = 0; i < encoder_.layers.size(); ++i) {
      x = graph.checkpoint(x, [this, &graph, batch, attention, i](const Variable& input) {
        const Layer& layer = encoder_.layers[i];
        const Normed a = add_norm(graph, input, {}, layer.self.norm);
        const Variable qkv = apply(graph, a.y, layer.self.qkv);
        graph.discard(a.y);
        const Variable heads = self_attention(graph, qkv, attention, batch.source_sequences);
        return feed_forward_of(graph, layer, onto(graph, a.residual, heads, layer.self.out));
      });
      probe_layer(graph, x, encoder_, i);
    }
    return finish(graph, x, encoder_);
  }

  Variable decode(Graph& graph, const ModelBatch& batch, const Variable& encoded) const {
    Variable x = embed(graph, batch.input_ids, decoder_);
    const int length = batch.cache.cache ? batch.cache.max_used : batch.sequences.max_length;
    const AttentionConfig self = attention_config(true, decoder_.bias.of_length(graph, length));
    const AttentionConfig cross = attention_config(false, {});
    for (size_t i = 0; i < decoder_.layers.size(); ++i) {
      x = graph.checkpoint(
          x, [this, &graph, batch, encoded, self, cross, i](const Variable& input) {
            const Layer& layer = decoder_.layers[i];
            const Normed a = add_norm(graph, input, {}, layer.self.norm);
            const Variable qkv = apply(graph, a.y, layer.self.qkv);
            graph.discard(a.y);
            Variable heads = cached_or_self_attention(graph, qkv, self, batch, static_cast<int>(i));

            const Normed c =
                add_norm(graph, onto(graph, a.residual, heads, layer.self.out), layer.cross.norm);
            const Variable q = apply(graph, c.y, layer.cross.q);
            graph.discard(c.y);
            const Variable kv = encoded ? apply(graph, encoded, layer.cross.kv) : Variable();
            heads = cached_or_cross_attention(graph, q, kv, cross, batch, static_cast<int>(i));
            return feed_forward_of(graph, layer, onto(graph, c.residual, heads, layer.cross.out));
          });
      probe_layer(graph, x, decoder_, i);
    }
    return finish(graph, x, decoder_);
  }

  Sum onto(Graph& graph, const Variable& residual, const Variable& heads, Parameter* out) const {
    return project_onto(graph, {residual, dropout_}, heads, {out});
  }

  Variable feed_forward_of(Graph& graph, const Layer& layer, const Sum& sum) const {
    const Normed m = add_norm(graph, sum, layer.feed_forward_norm);
    return added(graph, feed_forward_onto(graph, {m.residual, dropout_}, m.y, layer.feed_forward));
  }

  float eps_, dropout_;
  bool gated_ = false;
  kernels::Activation activation_ = kernels::Activation::relu;
  Parameter* table_ = nullptr;
  Stack encoder_, decoder_;
};

}  // namespace

std::unique_ptr<Model> make_t5(const nlohmann::ordered_json& config, const std::string& where,
                               Task) {
  return std::make_unique<T5>(config, where);
}

}  // namespace engine
