// GPT-2 (Radford et al. 2019): learned positions, pre-LayerNorm, Conv1D weights [in, out], GELU
// (tanh form), tied head. Reference: shared conventions of HF's GPT2LMHeadModel.
#pragma once

#include <memory>

#include "models/model.h"

namespace engine {

// `where` names the config in errors. `task` may ask for a classification head.
std::unique_ptr<Model> make_gpt2(const nlohmann::ordered_json& config, const std::string& where);

}  // namespace engine
