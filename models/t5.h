// T5 v1.0 and v1.1, Flan-T5, mT5: encoder-decoder with relative position biases.
#pragma once

#include "models/model.h"

namespace engine {

std::unique_ptr<Model> make_t5(const nlohmann::ordered_json& config, const std::string& where);

}  // namespace engine
