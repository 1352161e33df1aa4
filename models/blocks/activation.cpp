#include "models/blocks/activation.h"

namespace engine {

kernels::Activation read_activation(const ConfigReader& config, const char* key,
                                    const std::string& fallback) {
  constexpr std::pair<const char*, kernels::Activation> kNames[] = {
      {"gelu_new", kernels::Activation::gelu_tanh},
      {"gelu_pytorch_tanh", kernels::Activation::gelu_tanh},
      {"gelu", kernels::Activation::gelu_erf},
      {"silu", kernels::Activation::silu},
      {"swish", kernels::Activation::silu},
      {"relu", kernels::Activation::relu}};
  const std::string name = config.string(key, fallback);
  for (const auto& [known, activation] : kNames) {
    if (name == known) return activation;
  }
  config.unsupported(key, name, "gelu, gelu_new, gelu_pytorch_tanh, silu or relu");
}

}  // namespace engine
