#include "engine/optim/decay_groups.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

namespace engine {
namespace {

// Names, module types and decisions of transformers' Trainer for Llama, Qwen 2 and 3, Gemma 3,
// GPT-2, T5 and RoBERTa, made by tests/reference/decay_groups.py.
TEST(DecayGroups, MatchHuggingFaceOnRealNames) {
  std::ifstream file(ENGINE_SOURCE_DIR "/tests/optim/golden/decay_groups.json");
  const nlohmann::json families = nlohmann::json::parse(file);
  ASSERT_EQ(families.size(), 7u);
  for (const auto& [family, rows] : families.items()) {
    for (const nlohmann::json& row : rows) {
      const std::string name = row.at(0);
      EXPECT_EQ(is_weight_decayed(name, row.at(1)), row.at(2).get<bool>()) << family << " " << name;
    }
  }
}

TEST(DecayGroups, CornersOfTheRule) {
  EXPECT_FALSE(is_weight_decayed(
      "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", false));
  EXPECT_FALSE(is_weight_decayed("transformer.h.0.ln_1.weight", true));
  EXPECT_TRUE(is_weight_decayed("transformer.h.0.ln_1.weight", false));  // type alone exempts it
  EXPECT_FALSE(is_weight_decayed("norm.weight", false));
  EXPECT_FALSE(is_weight_decayed("model.norm", false));
  EXPECT_FALSE(is_weight_decayed("encoder.LayerNorm.weight", false));
  EXPECT_FALSE(is_weight_decayed("blocks.0.FFN_Norm.weight", false));
  EXPECT_TRUE(is_weight_decayed("model.normalizer.weight", false));
  EXPECT_TRUE(is_weight_decayed("model.norms.weight", false));
  EXPECT_TRUE(is_weight_decayed("model.abnorm.weight", false));
  EXPECT_TRUE(is_weight_decayed("base_model.layers.0.q_proj.lora_A.weight", false));
}

TEST(DecayGroups, ModesAndCounts) {
  EXPECT_TRUE(is_weight_decayed("model.norm.weight", false, WeightDecayMode::all));
  EXPECT_FALSE(is_weight_decayed("lm_head.weight", false, WeightDecayMode::none));
  const DecayCandidate parameters[] = {
      {"wte.weight", false, 100}, {"h.0.ln_1.weight", true, 7}, {"h.0.attn.c_attn.bias", false, 5}};
  const DecayGroups groups = split_decay_groups(parameters);
  EXPECT_EQ(groups.decayed, (std::vector<bool>{true, false, false}));
  EXPECT_EQ(groups.decayed_numel, 100);
  EXPECT_EQ(groups.exempt_numel, 12);
}

}  // namespace
}  // namespace engine
