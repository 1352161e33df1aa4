// Which parameters weight decay applies to: the rule of the Hugging Face Trainer.
//
// A parameter is not decayed iff its lower-cased full name contains "bias", "layernorm" or
// "rmsnorm", or has a component that is "norm" or ends with "_norm", or it belongs to a module that
// is a torch.nn.LayerNorm. Embeddings and the language-model head are decayed. T5's
// relative_attention_bias is not (its name contains "bias"), and the norms of GPT-2 (ln_1, ln_f)
// are exempt by module type only: no name pattern covers them.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "engine/config/train_config.h"

namespace engine {

// `is_layer_norm` means nn.LayerNorm with mean subtraction; RMS norms are recognised by name.
bool is_weight_decayed(std::string_view full_name, bool is_layer_norm,
                       WeightDecayMode mode = WeightDecayMode::hf);

struct DecayCandidate {
  std::string_view name;  // full name in the checkpoint, such as model.layers.0.mlp.up_proj.weight
  bool is_layer_norm = false;
  int64_t numel = 0;
};

struct DecayGroups {
  std::vector<bool> decayed;  // one per parameter, in the order given
  int64_t decayed_numel = 0;
  int64_t exempt_numel = 0;
};

// Give tied parameters once.
DecayGroups split_decay_groups(std::span<const DecayCandidate> parameters,
                               WeightDecayMode mode = WeightDecayMode::hf);

}  // namespace engine
