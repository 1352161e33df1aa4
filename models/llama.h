// Llama 3.x (and every model of its shape): RMSNorm, RoPE with HF's scalings, grouped-query
// attention, SwiGLU, tied or untied head, or a classification head.
#pragma once

#include <memory>

#include "models/model.h"

namespace engine {

std::unique_ptr<Model> make_llama(const nlohmann::ordered_json& config, const std::string& where,
                                  Task task);

}  // namespace engine
