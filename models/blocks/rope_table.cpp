#include "models/blocks/rope_table.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

namespace engine {

namespace {

void refuse_partial_rotation(const ConfigReader& config) {
  const float part = config.number("partial_rotary_factor", 1.0f);
  if (part != 1.0f) {
    config.unsupported("partial_rotary_factor", std::to_string(part), "1, or no such key");
  }
}

}  // namespace

RopeConfig read_rope_parameters(const ConfigReader& parameters, float default_theta) {
  RopeConfig rope;
  rope.theta = parameters.number("rope_theta", default_theta);
  refuse_partial_rotation(parameters);
  // Early checkpoints say "type".
  const std::string type = parameters.string("rope_type", parameters.string("type", "default"));
  if (type == "default") return rope;
  if (type == "linear") {
    rope.scaling = RopeConfig::Scaling::linear;
    rope.factor = parameters.number("factor", std::nullopt);
  } else if (type == "llama3") {
    rope.scaling = RopeConfig::Scaling::llama3;
    rope.factor = parameters.number("factor", std::nullopt);
    rope.low_freq_factor = parameters.number("low_freq_factor", std::nullopt);
    rope.high_freq_factor = parameters.number("high_freq_factor", std::nullopt);
    rope.original_max_position_embeddings =
        parameters.number("original_max_position_embeddings", std::nullopt);
    if (!(rope.high_freq_factor > rope.low_freq_factor)) {
      parameters.invalid("high_freq_factor", "more than low_freq_factor",
                         std::to_string(rope.high_freq_factor));
    }
  } else {
    parameters.unsupported("rope_type", "\"" + type + "\"", "default, linear or llama3");
  }
  if (!(rope.factor > 0)) {
    parameters.invalid("factor", "a positive number", std::to_string(rope.factor));
  }
  return rope;
}

RopeConfig read_rope_config(const ConfigReader& config, float default_theta) {
  refuse_partial_rotation(config);
  RopeConfig rope;
  rope.theta = config.number("rope_theta", default_theta);
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (const nlohmann::json* scaling = config.object(key)) {
      return read_rope_parameters(ConfigReader(*scaling, config.where() + ", " + key), rope.theta);
    }
  }
  return rope;
}

std::vector<float> rope_inverse_frequencies(const RopeConfig& config, int head_dim) {
  std::vector<float> frequencies(static_cast<size_t>(head_dim / 2));
  for (int i = 0; i < head_dim / 2; ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(head_dim);
    float f = 1.0f / std::pow(config.theta, exponent);
    switch (config.scaling) {
      case RopeConfig::Scaling::none:
        break;
      case RopeConfig::Scaling::linear:
        f /= config.factor;
        break;
      case RopeConfig::Scaling::llama3: {
        // Long wavelengths are stretched, short ones kept, those between blended.
        const float original = config.original_max_position_embeddings;
        const float wavelength = 2.0f * std::numbers::pi_v<float> / f;
        if (wavelength > original / config.low_freq_factor) {
          f /= config.factor;
        } else if (wavelength >= original / config.high_freq_factor) {
          const float smooth = (original / wavelength - config.low_freq_factor) /
                               (config.high_freq_factor - config.low_freq_factor);
          f = (1.0f - smooth) * f / config.factor + smooth * f;
        }
        break;
      }
    }
    frequencies[i] = f;
  }
  return frequencies;
}

RopeTable make_rope_table(Runtime& runtime, const RopeConfig& config, int head_dim,
                          int64_t max_positions) {
  const std::vector<float> frequencies = rope_inverse_frequencies(config, head_dim);
  const int64_t half = head_dim / 2;
  std::vector<float> cos(static_cast<size_t>(max_positions * half)), sin(cos.size());
  for (int64_t p = 0; p < max_positions; ++p) {
    for (int64_t i = 0; i < half; ++i) {
      const float angle = static_cast<float>(p) * frequencies[i];
      cos[p * half + i] = std::cos(angle);
      sin[p * half + i] = std::sin(angle);
    }
  }
  RopeTable table{runtime.persistent({max_positions, half}, DType::f32, MemoryCategory::weights),
                  runtime.persistent({max_positions, half}, DType::f32, MemoryCategory::weights)};
  runtime.upload(table.cos, cos.data());
  runtime.upload(table.sin, sin.data());
  return table;
}

}  // namespace engine
