#include "models/blocks/activation.h"

#include <utility>

namespace engine {

std::optional<kernels::Activation> find_activation(std::string_view name) {
  constexpr std::pair<std::string_view, kernels::Activation> kNames[] = {
      {"gelu_new", kernels::Activation::gelu_tanh},
      {"gelu_pytorch_tanh", kernels::Activation::gelu_tanh},
      {"gelu", kernels::Activation::gelu_erf},
      {"silu", kernels::Activation::silu},
      {"swish", kernels::Activation::silu},
      {"relu", kernels::Activation::relu}};
  for (const auto& [known, activation] : kNames) {
    if (name == known) return activation;
  }
  return std::nullopt;
}

kernels::Activation read_activation(const ConfigReader& config, const char* key,
                                    const std::string& fallback) {
  const std::string name = config.string(key, fallback);
  const auto activation = find_activation(name);
  if (!activation) config.unsupported(key, name, "gelu, gelu_new, gelu_pytorch_tanh, silu or relu");
  return *activation;
}

}  // namespace engine
