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

// Llama 3.2 1B and 3B; the scaling of RoPE changes a table, not the work.
constexpr const char* kLlama1b = R"({
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "vocab_size": 128256, "max_position_embeddings": 8192,
  "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
  "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
  "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "initializer_range": 0.02,
  "attention_dropout": 0.0,
  "bos_token_id": 1, "eos_token_id": 2,
  "tie_word_embeddings": true
})";

constexpr const char* kLlama3b = R"({
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "vocab_size": 128256, "max_position_embeddings": 8192,
  "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
  "num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128,
  "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "initializer_range": 0.02,
  "attention_dropout": 0.0,
  "bos_token_id": 1, "eos_token_id": 2,
  "tie_word_embeddings": true
})";

constexpr const char* kQwen1b5 = R"({
  "architectures": ["Qwen2ForCausalLM"],
  "model_type": "qwen2",
  "vocab_size": 151936, "max_position_embeddings": 32768,
  "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
  "num_attention_heads": 12, "num_key_value_heads": 2,
  "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "initializer_range": 0.02,
  "use_sliding_window": false, "attention_dropout": 0.0,
  "bos_token_id": 151643, "eos_token_id": 151645,
  "tie_word_embeddings": true
})";

constexpr const char* kGemma1b = R"({
  "architectures": ["Gemma3ForCausalLM"],
  "model_type": "gemma3_text",
  "vocab_size": 262144, "max_position_embeddings": 32768,
  "hidden_size": 1152, "intermediate_size": 6912, "num_hidden_layers": 26,
  "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
  "query_pre_attn_scalar": 256, "sliding_window": 512, "sliding_window_pattern": 6,
  "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "rms_norm_eps": 1e-6,
  "attention_dropout": 0.0,
  "tie_word_embeddings": true
})";

constexpr const char* kT5Small = R"({
  "architectures": ["T5ForConditionalGeneration"],
  "model_type": "t5",
  "vocab_size": 32128, "d_model": 512, "d_kv": 64, "d_ff": 2048,
  "num_layers": 6, "num_decoder_layers": 6, "num_heads": 8,
  "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
  "feed_forward_proj": "relu", "layer_norm_epsilon": 1e-6, "initializer_factor": 1.0,
  "dropout_rate": 0.0,
  "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
  "is_encoder_decoder": true, "tie_word_embeddings": true
})";

struct Named {
  const char* name;
  const char* config;
  int64_t batch, length;  // on a CPU the small ones are usual, on a GPU the large
};
constexpr Named kModels[] = {
    {"gpt2-124m", kGpt2, 4, 512},        {"llama-60m", kLlama, 8, 256},
    {"llama-3.2-1b", kLlama1b, 4, 2048}, {"llama-3.2-3b", kLlama3b, 4, 1024},
    {"qwen2.5-1.5b", kQwen1b5, 8, 1024}, {"gemma-3-1b", kGemma1b, 8, 1024},
    {"t5-small", kT5Small, 8, 128},
};

}  // namespace

nlohmann::ordered_json BenchModel::config() const {
  try {
    return nlohmann::ordered_json::parse(config_text);
  } catch (const nlohmann::json::exception& e) {
    throw Error(ExitCode::usage, "BENCH-MODEL", name + " is not JSON").found(e.what());
  }
}

BenchModel find_bench_model(const std::string& name) {
  std::string names;
  for (const Named& model : kModels) {
    if (name == model.name) {
      return {
          .name = name, .config_text = model.config, .batch = model.batch, .length = model.length};
    }
    names += std::string(model.name) + ", ";
  }
  std::filesystem::path path = name;
  if (std::filesystem::is_directory(path)) path /= "config.json";
  std::ifstream file(path);
  std::stringstream text;
  if (!file || !(text << file.rdbuf())) {
    throw Error(ExitCode::usage, "BENCH-MODEL", "no model " + name)
        .expected(names + "or the path of a config.json");
  }
  return {.name = path.string(), .config_text = text.str()};
}

}  // namespace engine
