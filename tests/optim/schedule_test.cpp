#include "engine/optim/schedule.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "engine/core/error.h"

namespace engine {
namespace {

ScheduleConfig make_config(ScheduleType type, int64_t warmup_steps) {
  ScheduleConfig config;
  config.type = type;
  config.warmup_steps = warmup_steps;
  return config;
}

// Both sides are the same few double operations; only cos() may differ in its last bit.
constexpr double kTolerance = 4e-16;

TEST(Schedule, MatchesHuggingFace) {
  const std::map<std::string, ScheduleType> types = {{"constant", ScheduleType::constant},
                                                     {"linear", ScheduleType::linear},
                                                     {"cosine", ScheduleType::cosine},
                                                     {"wsd", ScheduleType::wsd}};
  const std::map<std::string, DecayShape> shapes = {
      {"linear", DecayShape::linear}, {"cosine", DecayShape::cosine}, {"sqrt", DecayShape::sqrt}};
  std::ifstream file(ENGINE_SOURCE_DIR "/tests/optim/golden/schedules.json");
  const nlohmann::json cases = nlohmann::json::parse(file);
  ASSERT_EQ(cases.size(), 9u);
  for (const nlohmann::json& golden : cases) {
    SCOPED_TRACE(golden.at("name").get<std::string>());
    ScheduleConfig config = make_config(types.at(golden.at("type")), golden.at("warmup_steps"));
    config.min_lr_ratio = golden.value("min_lr_ratio", 0.0);
    if (golden.contains("decay_shape")) {
      config.decay_shape = shapes.at(golden.at("decay_shape"));
      config.decay_steps = golden.at("decay_steps").get<int64_t>();
    }
    const Schedule schedule(config, golden.at("total_steps"));
    for (const nlohmann::json& point : golden.at("multipliers")) {
      EXPECT_NEAR(schedule.multiplier(point.at(0)), point.at(1).get<double>(), kTolerance)
          << "step " << point.at(0);
    }
  }
}

TEST(Schedule, PublishedValues) {
  const Schedule linear(make_config(ScheduleType::linear, 10), 100);
  EXPECT_NEAR(linear.multiplier(11), 0.988888888889, 1e-12);  // as printed: 12 digits
  EXPECT_NEAR(linear.multiplier(99), 0.011111111111, 1e-12);
  const Schedule cosine(make_config(ScheduleType::cosine, 10), 100);
  EXPECT_NEAR(cosine.multiplier(11), 0.99969541351, 1e-11);
  EXPECT_NEAR(cosine.multiplier(55), 0.5, 1e-15);
  EXPECT_NEAR(cosine.multiplier(99), 0.00030458649, 1e-11);
}

TEST(Schedule, NothingRisesAfterTheEnd) {
  const Schedule cosine(make_config(ScheduleType::cosine, 10), 100);
  EXPECT_EQ(cosine.multiplier(100), 0.0);
  EXPECT_EQ(cosine.multiplier(150), 0.0);  // Hugging Face: 0.5868
  EXPECT_FALSE(cosine.past_end(99));
  EXPECT_TRUE(cosine.past_end(100));
  ScheduleConfig config = make_config(ScheduleType::wsd, 0);
  config.min_lr_ratio = 0.25;
  EXPECT_EQ(Schedule(config, 100).multiplier(1000), 0.25);
  EXPECT_EQ(Schedule(make_config(ScheduleType::linear, 10), 100).multiplier(1000), 0.0);
}

TEST(Schedule, WarmupFromOneOverW) {
  ScheduleConfig config = make_config(ScheduleType::linear, 4);
  config.warmup_start = WarmupStart::one_over_w;
  const Schedule schedule(config, 10);
  EXPECT_EQ(schedule.multiplier(0), 0.25);
  EXPECT_EQ(schedule.multiplier(3), 1.0);
  EXPECT_EQ(schedule.multiplier(4), 1.0);
  EXPECT_LT(schedule.multiplier(5), 1.0);
}

TEST(Schedule, RatiosRoundUp) {
  ScheduleConfig config;
  config.type = ScheduleType::wsd;
  config.warmup_ratio = 0.03;
  config.decay_ratio = 0.101;
  const Schedule schedule(config, 303);
  EXPECT_EQ(schedule.warmup_steps(), 10);  // 9.09
  EXPECT_EQ(schedule.decay_steps(), 31);   // 30.603
  config.decay_ratio.reset();
  EXPECT_EQ(Schedule(config, 300).decay_steps(), 30);  // a tenth by default
}

TEST(Schedule, WarmupLongerThanTheRunIsAllowedAsInHuggingFace) {
  EXPECT_EQ(Schedule(make_config(ScheduleType::cosine, 200), 100).multiplier(99), 0.495);
}

TEST(Schedule, RefusesPhasesThatDoNotFit) {
  ScheduleConfig config = make_config(ScheduleType::wsd, 60);
  config.decay_steps = 50;
  try {
    Schedule(config, 100);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "CONF-SCHEDULE");
    EXPECT_EQ(error.exit_code(), ExitCode::usage);
    EXPECT_NE(std::string(error.what()).find("60 warm-up + 50 decay = 110 steps"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace engine
