// HF's names of activation functions.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "kernels/api/activation.h"
#include "models/config_reader.h"

namespace engine {

// gelu_new and gelu_pytorch_tanh are the same formula here: HF rounds the first after every
// operation in bf16, the kernel once. Nothing for functions that no kernel computes.
std::optional<kernels::Activation> find_activation(std::string_view name);

// The activation that `key` names, `fallback` when it is absent. Others are refused by name
// (CONFIG-UNSUPPORTED).
kernels::Activation read_activation(const ConfigReader& config, const char* key,
                                    const std::string& fallback);

}  // namespace engine
