// Parameter counts of published checkpoints, from their configs alone: a name, a shape or a default
// that is wrong shows here. named_checkpoints.json: parameters of the model (a tied head once), of
// its first layer and of its token table, and the config.json without what does not matter.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "models/describe.h"
#include "models/registry.h"

namespace engine {
namespace {

nlohmann::ordered_json checkpoints() {
  std::ifstream file(std::filesystem::path(ENGINE_SOURCE_DIR) /
                     "tests/models/named_checkpoints.json");
  return nlohmann::ordered_json::parse(file);
}

TEST(NamedCheckpoints, ParameterCounts) {
  int seen = 0;
  for (const auto& checkpoint : checkpoints()) {
    const std::string name = checkpoint["name"];
    SCOPED_TRACE(name);
    const auto model = make_model(checkpoint["config"], name);
    EXPECT_EQ(model->parameters().count(), checkpoint["parameters"].get<int64_t>());
    int64_t layer = 0;
    for (const auto& parameter : model->parameters()) {
      for (const ParameterPart& part : parameter->parts) {
        if (part.name.find("layers.0.") != std::string::npos ||
            part.name.find(".h.0.") != std::string::npos) {
          layer += part.shape.count();
        }
      }
    }
    EXPECT_EQ(layer, checkpoint["layer"].get<int64_t>());
    EXPECT_EQ(model->parameters()[0].count(), checkpoint["table"].get<int64_t>());
    EXPECT_EQ(describe_model(*model, nullptr).parameters, checkpoint["parameters"].get<int64_t>());
    ++seen;
  }
  EXPECT_GE(seen, 14);
}

// Forward and backward need 6 FLOPs per matrix element and token (models.md 9, column 6N).
TEST(NamedCheckpoints, MatmulParameters) {
  const std::map<std::string, double> giga_flops = {
      {"meta-llama/Llama-3.2-1B", 7.4149},  {"meta-llama/Llama-3.2-3B", 19.2765},
      {"meta-llama/Llama-3.1-8B", 45.0295}, {"Qwen/Qwen2.5-1.5B", 9.2623},
      {"google/gemma-3-1b-it", 5.9993},     {"google/gemma-3-4b-it, text", 23.2816}};
  int seen = 0;
  for (const auto& checkpoint : checkpoints()) {
    const auto expected = giga_flops.find(checkpoint["name"].get<std::string>());
    if (expected == giga_flops.end()) continue;
    const auto model = make_model(checkpoint["config"], "config.json");
    // The table counts norms and biases too: a few parts in ten thousand.
    const double flops = 6e-9 * static_cast<double>(model->matmul_parameters());
    EXPECT_NEAR(flops / expected->second, 1.0, 3e-4) << expected->first;
    ++seen;
  }
  EXPECT_EQ(seen, static_cast<int>(giga_flops.size()));
}

TEST(NamedCheckpoints, WindowsOfGemma3) {
  for (const auto& checkpoint : checkpoints()) {
    const std::string name = checkpoint["name"];
    if (!name.starts_with("google/gemma-3-")) continue;
    const auto model = make_model(checkpoint["config"], name);
    const bool small = name.find("1b") != std::string::npos;
    const std::vector<int64_t>& windows = model->info().windows;
    ASSERT_EQ(windows.size(), small ? 26u : 34u);
    for (size_t i = 0; i < windows.size(); ++i) {
      EXPECT_EQ(windows[i], i % 6 == 5 ? 0 : small ? 512 : 1024) << name << ", layer " << i;
    }
  }
}

}  // namespace
}  // namespace engine
