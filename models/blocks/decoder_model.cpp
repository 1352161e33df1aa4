#include "models/blocks/decoder_model.h"

#include "models/classifier_config.h"

namespace engine {

void DecoderModel::read_sizes(const ConfigReader& config) {
  const auto read = [&config](const char* key, auto& value) {
    value = static_cast<std::remove_reference_t<decltype(value)>>(config.integer(key, value));
  };
  read("vocab_size", info_.vocab_size);
  read("hidden_size", info_.hidden_size);
  read("intermediate_size", info_.intermediate_size);
  info_.num_layers = config.layers("num_hidden_layers", static_cast<int>(info_.num_layers));
  read("num_attention_heads", info_.num_heads);
  read("max_position_embeddings", info_.max_positions);
  if (info_.num_kv_heads == 0) info_.num_kv_heads = info_.num_heads;
  read("num_key_value_heads", info_.num_kv_heads);
  if (info_.num_heads % info_.num_kv_heads != 0) {
    config.invalid("num_key_value_heads",
                   "a divisor of num_attention_heads = " + std::to_string(info_.num_heads),
                   std::to_string(info_.num_kv_heads));
  }
  if (info_.head_dim == 0) {
    if (!config.has("head_dim") && info_.hidden_size % info_.num_heads != 0) {
      config.invalid("hidden_size", "a multiple of num_attention_heads, or a head_dim",
                     std::to_string(info_.hidden_size));
    }
    info_.head_dim = static_cast<int>(info_.hidden_size / info_.num_heads);
  }
  if (config.has("head_dim")) {
    info_.head_dim = static_cast<int>(config.integer("head_dim", 0, 1, 1 << 16));
  }
  if (info_.head_dim % 2 != 0) {
    config.invalid("head_dim", "an even number", std::to_string(info_.head_dim));
  }
  info_.tied_head = config.boolean("tie_word_embeddings", info_.tied_head);
  info_.bos_ids = config.ids("bos_token_id", info_.bos_ids);
  info_.eos_ids = config.ids("eos_token_id", info_.eos_ids);
  info_.pad_ids = config.ids("pad_token_id", info_.pad_ids);
}

std::string DecoderModel::architecture(const std::string& family) const {
  return family + (info_.task == Task::causal_lm ? "ForCausalLM" : "ForSequenceClassification");
}

void DecoderModel::add_token_table(const std::string& name, Initializer init) {
  token_table_ = &parameters_.add(prefix_ + name, {info_.vocab_size, info_.hidden_size}, init);
  if (!info_.pad_ids.empty() && info_.pad_ids[0] < info_.vocab_size) {
    token_table_->padding_row = info_.pad_ids[0];  // nn.Embedding(padding_idx)
  }
}

void DecoderModel::add_head(const ConfigReader& config, Initializer init) {
  if (info_.task == Task::sequence_classification) {
    read_classifier_config(config, info_);
    head_ = &parameters_.add("score.weight", {info_.num_labels, info_.hidden_size}, init);
  } else if (info_.tied_head) {
    head_ = token_table_;
  } else {
    head_ = &parameters_.add("lm_head.weight", {info_.vocab_size, info_.hidden_size}, init);
  }
}

NormParameters DecoderModel::add_rms_norm(const std::string& name, int64_t size,
                                          kernels::NormKind kind, float eps) {
  const bool offset = kind == kernels::NormKind::rms_gemma;
  return {.kind = kind,
          .weight = &parameters_.add(prefix_ + name + ".weight", {size},
                                     offset ? Initializer::zeros() : Initializer::ones()),
          .eps = eps};
}

int64_t DecoderModel::matmul_parameters() const {
  int64_t count = head_ == token_table_ ? 0 : -token_table_->count();
  for (const auto& parameter : parameters_) {
    if (parameter->shape.rank() == 2) count += parameter->count();
  }
  return count;
}

Variable DecoderModel::embed(Graph& graph, const ModelBatch& batch) {
  return embedding(graph, {.ids = batch.input_ids, .table = token_table_});
}

Variable DecoderModel::hidden_states(Graph& graph, const ModelBatch& batch) {
  Variable x = embed(graph, batch);
  graph.probe("hidden.0", x);
  for (int i = 0; i < info_.num_layers; ++i) {
    x = graph.checkpoint(x, [this, &graph, batch, i](const Variable& input) {
      return layer(graph, batch, i, input);
    });
    // HF's hidden_states: the last entry is after the final norm.
    if (i + 1 < info_.num_layers) graph.probe("hidden." + std::to_string(i + 1), x);
  }
  const Variable out = norm(graph, x, final_norm_);
  graph.probe("hidden." + std::to_string(info_.num_layers), out);
  return out;
}

std::vector<std::string> DecoderModel::spellings(const std::string& name) const {
  if (name.starts_with(prefix_)) return {name, name.substr(prefix_.size())};
  return {name};
}

bool DecoderModel::ignorable(const std::string& name) const {
  return name.ends_with(".rotary_emb.inv_freq") ||
         (name == "lm_head.weight" &&
          (info_.tied_head || info_.task == Task::sequence_classification));
}

}  // namespace engine
