// RoPE frequencies against the values that reference implementations print (fp32).
#include "models/blocks/rope_table.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "engine/core/error.h"

namespace engine {
namespace {

RopeConfig read(const char* text) {
  const nlohmann::json json = nlohmann::json::parse(text);
  return read_rope_config(ConfigReader(json, "test"), 10000.0f);
}

constexpr const char* kLlama32 = R"({"rope_theta": 500000.0, "rope_scaling": {"factor": 32.0,
  "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
  "rope_type": "llama3"}})";

TEST(RopeTable, Llama3Scaling) {
  const std::vector<float> f = rope_inverse_frequencies(read(kLlama32), 128);
  EXPECT_FLOAT_EQ(f[0], 1.0f);
  EXPECT_FLOAT_EQ(f[1], 0.814617217f);
  // Relative 1e-6: powf of two libraries differs in the last place.
  const auto near = [](float a, double b) { EXPECT_NEAR(a / b, 1.0, 1e-6); };
  near(f[29], 0.00211840682);
  near(f[31], 0.000762541255);
  near(f[34], 9.70828623e-05);
  near(f[35], 2.38905304e-05);
  near(f[63], 7.67231469e-08);
  const std::vector<float> small = rope_inverse_frequencies(read(kLlama32), 64);
  near(small[15], 0.00129054801);
  near(small[16], 0.000429556705);
  near(small[18], 1.94616387e-05);
}

TEST(RopeTable, SpellingsOfTheConfig) {
  EXPECT_FLOAT_EQ(read("{}").theta, 10000.0f);
  EXPECT_FLOAT_EQ(read(R"({"rope_parameters": {"rope_type": "default", "rope_theta": 5}})").theta,
                  5);
  const RopeConfig linear =
      read(R"({"rope_theta": 7, "rope_scaling": {"type": "linear", "factor": 4}})");
  EXPECT_EQ(linear.scaling, RopeConfig::Scaling::linear);
  EXPECT_FLOAT_EQ(rope_inverse_frequencies(linear, 2)[0], 0.25f);
  for (const char* type : {"yarn", "dynamic", "longrope", "nonsense"}) {
    const std::string text =
        std::string(R"({"rope_scaling": {"factor": 2, "rope_type": ")") + type + "\"}}";
    try {
      read(text.c_str());
      FAIL() << type;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), "CONFIG-UNSUPPORTED");
      EXPECT_NE(std::string(error.what()).find(type), std::string::npos);
    }
  }
  EXPECT_THROW(read(R"({"rope_scaling": {"rope_type": "llama3", "factor": 8}})"), Error);
  EXPECT_THROW(read(R"({"rope_scaling": {"rope_type": "linear", "factor": 0}})"), Error);
}

}  // namespace
}  // namespace engine
