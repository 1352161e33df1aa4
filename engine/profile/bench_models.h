// The models that figures are published for, and any other by its config.json.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace engine {

struct BenchModel {
  std::string name;         // "gpt2-124m", or the path of the config
  std::string config_text;  // config.json, without dropout
  // Sequences and tokens of each, of an encoder-decoder model on each side, where none are given.
  int64_t batch = 4, length = 512;

  nlohmann::ordered_json config() const;
};

// `name` is gpt2-124m, llama-60m, llama-3.2-1b, llama-3.2-3b, qwen2.5-1.5b, gemma-3-1b, t5-small,
// or the path of a config.json or of its directory. Throws Error BENCH-MODEL (usage).
BenchModel find_bench_model(const std::string& name);

}  // namespace engine
