// HF's names of activation functions.
#pragma once

#include <string>

#include "kernels/api/activation.h"
#include "models/config_reader.h"

namespace engine {

// The activation that `key` names, `fallback` when it is absent. gelu_new and gelu_pytorch_tanh are
// the same formula here: HF rounds the first after every operation in bf16, the kernel once. Other
// functions are refused by name (CONFIG-UNSUPPORTED).
kernels::Activation read_activation(const ConfigReader& config, const char* key,
                                    const std::string& fallback);

}  // namespace engine
