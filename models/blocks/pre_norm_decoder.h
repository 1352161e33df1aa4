// The decoder of Llama and every model of its shape: RMSNorm before each sublayer, rotary
// grouped-query attention, a gated MLP.
//
//   m = x + attention(RMS(x));   y = m + mlp(RMS(m))
//
// A family says its defaults and what differs: biases, windows.
#pragma once

#include <string>
#include <vector>

#include "models/blocks/attention.h"
#include "models/blocks/decoder_model.h"
#include "models/blocks/gated_mlp.h"
#include "models/blocks/rope_table.h"

namespace engine {

class PreNormDecoder : public DecoderModel {
 public:
  void prepare(Runtime& runtime, int64_t max_positions) override;

 protected:
  // Linear layers that have one.
  struct Biases {
    bool qkv = false, attention_out = false, mlp = false;
  };

  explicit PreNormDecoder(const nlohmann::ordered_json& config) : DecoderModel(config, "model.") {}

  // Reads what this shape needs beyond the sizes (rope, rms_norm_eps, hidden_act,
  // initializer_range, attention_dropout) and adds every parameter under Llama's names, which its
  // relatives have too. Before it info_ must have its sizes (read_sizes) and, where layers see
  // less than everything, its windows.
  void build(const ConfigReader& config, const Biases& biases);

 private:
  struct Layer {
    NormParameters before_attention, before_mlp;
    RotaryAttention attention;
    GatedMlp mlp;
  };

  Variable layer(Graph& graph, const ModelBatch& batch, int i, const Variable& x) override;

  RopeConfig rope_config_;
  RopeTable rope_;
  std::vector<Layer> layers_;
};

}  // namespace engine
