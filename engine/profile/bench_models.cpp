#include "engine/profile/bench_models.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "engine/core/error.h"

namespace engine {
namespace {

constexpr const char* kGpt2 = R"({
  "architectures": ["GPT2LMHeadModel"],
  "model_type": "gpt2",
  "vocab_size": 50257, "n_positions": 1024,
  "n_embd": 768, "n_layer": 12, "n_head": 12,
  "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "initializer_range": 0.02,
  "embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0,
  "bos_token_id": 50256, "eos_token_id": 50256,
  "tie_word_embeddings": true
})";

constexpr const char* kLlama = R"({
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "vocab_size": 32000, "max_position_embeddings": 1024,
  "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8,
  "num_attention_heads": 8, "num_key_value_heads": 8,
  "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "initializer_range": 0.02,
  "attention_dropout": 0.0,
  "bos_token_id": 1, "eos_token_id": 2,
  "tie_word_embeddings": false
})";

}  // namespace

nlohmann::ordered_json BenchModel::config() const {
  try {
    return nlohmann::ordered_json::parse(config_text);
  } catch (const nlohmann::json::exception& e) {
    throw Error(ExitCode::usage, "BENCH-MODEL", name + " is not JSON").found(e.what());
  }
}

BenchModel find_bench_model(const std::string& name) {
  if (name == "gpt2-124m") return {.name = name, .config_text = kGpt2, .batch = 4, .length = 512};
  if (name == "llama-60m") return {.name = name, .config_text = kLlama, .batch = 8, .length = 256};
  std::filesystem::path path = name;
  if (std::filesystem::is_directory(path)) path /= "config.json";
  std::ifstream file(path);
  std::stringstream text;
  if (!file || !(text << file.rdbuf())) {
    throw Error(ExitCode::usage, "BENCH-MODEL", "no model " + name)
        .expected("gpt2-124m, llama-60m, or the path of a config.json");
  }
  return {.name = path.string(), .config_text = text.str()};
}

}  // namespace engine
