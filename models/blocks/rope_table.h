// Rotary frequencies with HF's scalings, and the cos/sin tables made from them.
#pragma once

#include <string>
#include <vector>

#include "engine/autograd/ops.h"
#include "models/config_reader.h"

namespace engine {

struct RopeConfig {
  float theta = 10000.0f;
  enum class Scaling : uint8_t { none, linear, llama3 } scaling = Scaling::none;
  float factor = 1.0f;
  float low_freq_factor = 1.0f, high_freq_factor = 4.0f;  // llama3
  float original_max_position_embeddings = 8192.0f;       // llama3
};

// From `rope_theta` + `rope_scaling` (HF 4.x) or `rope_parameters` (5.x). yarn, dynamic, longrope
// and unknown types are refused by name, and so are heads that are rotated in part.
RopeConfig read_rope_config(const ConfigReader& config, float default_theta);
// From one such object: what a layer type has under `rope_parameters`, for instance.
RopeConfig read_rope_parameters(const ConfigReader& parameters, float default_theta);

// inv_freq[i], i < head_dim / 2, computed in fp32 as HF does.
std::vector<float> rope_inverse_frequencies(const RopeConfig& config, int head_dim);

// cos and sin of position · inv_freq for positions [0, max_positions).
RopeTable make_rope_table(Runtime& runtime, const RopeConfig& config, int head_dim,
                          int64_t max_positions);

}  // namespace engine
