// Configs with sizes that no model has: an error or a model, at once, whatever they multiply to.
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "engine/core/error.h"
#include "models/registry.h"
#include "tests/models/golden_model.h"

namespace engine {
namespace {

using Json = nlohmann::ordered_json;
using testing::GoldenModel;

constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
constexpr int64_t kBillion = int64_t{1} << 30;

std::string code_of(const std::string& model, const Json& changes) {
  Json config = GoldenModel(model).config;
  config.update(changes);
  config.erase("layer_types");
  try {
    make_model(config, "config.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::checkpoint);
    return error.code();
  }
  return "";
}

TEST(HostileConfig, SizesThatMultiplyToTooMuch) {
  const std::pair<const char*, Json> kConfigs[] = {
      {"llama_untied_bias",
       {{"hidden_size", 1 << 21},
        {"num_attention_heads", 1 << 20},
        {"num_key_value_heads", 1 << 20},
        {"head_dim", 1 << 11}}},
      {"llama_untied_bias",
       {{"num_attention_heads", kBillion}, {"num_key_value_heads", kBillion}, {"head_dim", 65536}}},
      {"llama_untied_bias", {{"head_dim", kLargest - 1}}},
      {"gpt2", {{"n_embd", kBillion}, {"n_head", 2}, {"vocab_size", kLargest}}},
      {"gpt2", {{"n_positions", kLargest}, {"n_embd", kBillion}, {"n_head", 2}}},
      {"t5_relu_tied", {{"d_model", kLargest}, {"vocab_size", kLargest}}},
      {"t5_relu_tied", {{"d_kv", kLargest}, {"num_heads", kLargest}}},
      {"gemma3_text", {{"hidden_size", kLargest - 1}, {"vocab_size", kLargest}}},
      {"roberta_classifier", {{"num_labels", kLargest}, {"hidden_size", kLargest}}},
  };
  for (const auto& [model, changes] : kConfigs) {
    EXPECT_EQ(code_of(model, changes), "CONFIG-INVALID") << model << changes;
  }
}

TEST(HostileConfig, Layers) {
  const std::pair<const char*, const char*> kKeys[] = {{"llama_untied_bias", "num_hidden_layers"},
                                                       {"gpt2", "n_layer"},
                                                       {"t5_relu_tied", "num_layers"},
                                                       {"t5_relu_tied", "num_decoder_layers"},
                                                       {"roberta_classifier", "num_hidden_layers"},
                                                       {"gemma3_text", "num_hidden_layers"},
                                                       {"qwen2_tied", "num_hidden_layers"}};
  for (const auto& [model, key] : kKeys) {
    for (const int64_t layers : {int64_t{-1}, int64_t{0}, int64_t{100000}, kLargest, kLargest + 1,
                                 int64_t{1} << 40, std::numeric_limits<int64_t>::max()}) {
      EXPECT_EQ(code_of(model, {{key, layers}}), "CONFIG-INVALID") << model << layers;
    }
    EXPECT_EQ(code_of(model, {{key, UINT64_MAX}}), "CONFIG-INVALID") << model;
    EXPECT_EQ(code_of(model, {{key, 1e300}}), "CONFIG-INVALID") << model;
  }
}

// Every number of every config by absurd ones: it is refused, or it makes a model.
TEST(HostileConfig, EveryNumber) {
  for (const char* model : {"llama_untied_bias", "gpt2", "t5_gated_untied", "roberta_classifier",
                            "gemma3_text", "qwen2_untied_window", "llama_tied_llama3rope"}) {
    const Json config = GoldenModel(model).config;
    int numbers = 0;
    for (const auto& [key, value] : config.items()) {
      if (!value.is_number()) continue;
      ++numbers;
      for (const Json& absurd : {Json(0), Json(-1), Json(kLargest), Json(UINT64_MAX), Json(-1e300),
                                 Json("7"), Json(nullptr), Json::array({1}), Json(0.5)}) {
        const std::string code = code_of(model, {{key, absurd}});
        EXPECT_TRUE(code.empty() || code.starts_with("CONFIG-")) << model << key << absurd << code;
      }
    }
    EXPECT_GT(numbers, 5);
  }
}

}  // namespace
}  // namespace engine
