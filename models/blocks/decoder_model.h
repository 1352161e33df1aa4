// What the decoder-only families have in common: a table of token embeddings, layers on a residual
// stream, a final norm, and a head that is the table again, a matrix of its own, or a row for each
// class. A family names its parameters and computes its layer.
#pragma once

#include <string>
#include <vector>

#include "models/config_reader.h"
#include "models/model.h"

namespace engine {

class DecoderModel : public Model {
 public:
  // Every matrix but an input table that is not the head too.
  int64_t matmul_parameters() const override;
  Variable hidden_states(Graph& graph, const ModelBatch& batch) override;

  // Files of the bare model (no head) lack the prefix.
  std::vector<std::string> spellings(const std::string& name) const override;
  // Tied heads that are stored all the same, heads of another task, and buffers.
  bool ignorable(const std::string& name) const override;

 protected:
  // `prefix` is the bare model's name within the whole: "model.".
  DecoderModel(const nlohmann::ordered_json& config, std::string prefix)
      : Model(config), prefix_(std::move(prefix)) {}

  // Sizes, token ids and tie_word_embeddings under the keys that Llama and its relatives use, over
  // the family's defaults in info_. Defaults of 0: num_kv_heads as many as heads, head_dim
  // hidden_size / num_heads.
  void read_sizes(const ConfigReader& config);
  // "LlamaForCausalLM", "LlamaForSequenceClassification": by info_.task.
  std::string architecture(const std::string& family) const;

  // In the order of the checkpoint: table, the layers (the family's), final norm, head.
  // The row of pad_token_id is zero at first and gets no gradient as an input.
  void add_token_table(const std::string& name, Initializer init);
  void add_head(const ConfigReader& config, Initializer init);
  // An RMSNorm's weight [size], at 1, or at 0 for the kind that stores an offset from 1.
  NormParameters add_rms_norm(const std::string& name, int64_t size, kernels::NormKind kind,
                              float eps);

  // [N, hidden] in the residual dtype: rows of the table.
  virtual Variable embed(Graph& graph, const ModelBatch& batch);
  // Layer i: the residual stream before it -> after it.
  virtual Variable layer(Graph& graph, const ModelBatch& batch, int i, const Variable& x) = 0;

  std::string prefix_;
  Parameter* token_table_ = nullptr;
  NormParameters final_norm_;
};

}  // namespace engine
