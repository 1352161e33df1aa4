// Whole runs with recorded micro-batches, the one wait of a step, and weights of bf16 alone.
#include "kernels/simt/stream.h"
#include "tests/support/devices.h"
#include "tests/train/support.h"

namespace engine::testing {
namespace {

namespace fs = std::filesystem;

class Recorded : public ::testing::TestWithParam<kernels::DeviceType> {
 protected:
  // A stream of documents in micro-batches of 64 tokens, two to a step; dropout, clipping.
  std::vector<std::string> settings(const Workspace& w) const {
    return tiny_gpt2(w) +
           std::vector<std::string>{std::string("train.device=") + kernels::name_of(GetParam()),
                                    "data.packing=stream", "train.micro_batch_tokens=64",
                                    "train.accumulation=2", "train.threads=2"};
  }
};
INSTANTIATE_TEST_SUITE_P(Devices, Recorded, ::testing::ValuesIn(test_gpus()), device_name);

struct Trace {
  std::string model, optimizer;
  std::vector<nlohmann::json> losses;
  bool operator==(const Trace&) const = default;
};
Trace trace_of(const fs::path& out) {
  Trace trace{file_bytes(out / "last/model.safetensors"),
              file_bytes(out / "last/engine_state/optimizer.safetensors"),
              {}};
  for (const auto& record : metrics(out, "train")) trace.losses.push_back(record["loss"]);
  return trace;
}

TEST_P(Recorded, SameBitsOnAndOffAndResumed) {
  const Workspace w;
  const auto run = [&](const char* name, const std::vector<std::string>& more) {
    const Outcome outcome =
        run_here(settings(w) +
                 std::vector<std::string>{"train.output_dir=" + (w.path() / name).string(),
                                          "train.save_every=3"} +
                 more);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.error;
    return outcome.console;
  };
  EXPECT_EQ(run("off", {"train.cuda_graph=false"}).find("graphs "), std::string::npos);
  const std::string on = run("on", {"train.cuda_graph=true"});
  // 12 micro-batches of 64 tokens
  const size_t line = on.find("graphs  ");
  ASSERT_NE(line, std::string::npos) << on;
  EXPECT_GE(std::stoi(on.substr(line + 8)), 4) << on.substr(line);
  const Trace expected = trace_of(w.path() / "off");
  EXPECT_TRUE(trace_of(w.path() / "on") == expected);

  // From the middle, recorded, of a run that was not.
  fs::remove_all(w.path() / "off/checkpoint-6");
  fs::remove(w.path() / "off/last");
  run("off", {"train.cuda_graph=true", "train.resume=true"});
  EXPECT_TRUE(trace_of(w.path() / "off") == expected);
}

TEST_P(Recorded, AStepWaitsOnceForTheDevice) {
  if (GetParam() != kernels::DeviceType::simt) GTEST_SKIP() << "waits are counted on simt";
  for (const char* graphs : {"train.cuda_graph=false", "train.cuda_graph=true"}) {
    int64_t waits[2];
    for (const int longer : {0, 1}) {
      const Workspace w;
      const int64_t before = kernels::simt::count_of_waits();
      const Outcome outcome =
          run_here(settings(w) + std::vector<std::string>{
                                     graphs, longer ? "train.max_steps=7" : "train.max_steps=3"});
      ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
      waits[longer] = kernels::simt::count_of_waits() - before;
    }
    EXPECT_EQ(waits[1] - waits[0], 4) << graphs;
  }
}

TEST_P(Recorded, WhoAsksForThemIsToldWhenThereAreNone) {
  const Workspace w;
  std::string rows;  // lengths that come twice at most
  for (int i = 0; i < 66; ++i) {
    rows += "{\"text\": \"" + std::string(static_cast<size_t>(1 + i % 33), 'a') + "\"}\n";
  }
  w.write("rows.jsonl", rows);
  const Outcome outcome = run_here(
      tiny_llama(w) +
      std::vector<std::string>{std::string("train.device=") + kernels::name_of(GetParam()),
                               "data.train=" + (w.path() / "rows.jsonl").string(),
                               "data.packing=rows", "train.micro_batch_rows=1", "data.shuffle=none",
                               "data.max_length=40", "train.accumulation=66", "train.max_steps=1",
                               "train.cuda_graph=true", "train.threads=2"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
  EXPECT_NE(outcome.console.find("warn    train.cuda_graph=true, but none of the first 66"),
            std::string::npos)
      << outcome.console;
}

TEST(RecordedOnTheCpu, IsAnError) {
  const Workspace w;
  const Outcome outcome =
      run_here(tiny_gpt2(w) + std::vector<std::string>{"train.cuda_graph=true"});
  EXPECT_EQ(outcome.code, "DEV-GRAPH");
  EXPECT_NE(outcome.error.find("--device cuda"), std::string::npos) << outcome.error;
}

class Bf16Alone : public ::testing::TestWithParam<kernels::DeviceType> {
 protected:
  std::vector<std::string> settings(const Workspace& w) const {
    return tiny_llama(w) +
           std::vector<std::string>{std::string("train.device=") + kernels::name_of(GetParam()),
                                    "train.precision=bf16", "optimizer.stochastic_rounding=true",
                                    "train.threads=2"};
  }
};
INSTANTIATE_TEST_SUITE_P(Devices, Bf16Alone, ::testing::ValuesIn(test_devices()), device_name);

TEST_P(Bf16Alone, LearnsWithoutMastersRepeatsAndResumes) {
  for (const char* dtype : {"float32", "bfloat16"}) {
    if (GetParam() != kernels::DeviceType::cpu && dtype[0] == 'f') continue;  // the time
    const Workspace w;
    const int steps = GetParam() == kernels::DeviceType::cpu ? 40 : 8;
    const auto run = [&](const char* name, const std::vector<std::string>& more) {
      const Outcome outcome =
          run_here(settings(w) +
                   std::vector<std::string>{"train.output_dir=" + (w.path() / name).string(),
                                            "train.max_steps=" + std::to_string(steps),
                                            std::string("model.save_dtype=") + dtype,
                                            "train.save_every=" + std::to_string(steps / 2)} +
                   more);
      EXPECT_EQ(outcome.exit_code, 0) << outcome.error;
      return outcome.console;
    };
    const std::string console = run("a", {});
    EXPECT_NE(console.find("bf16, stochastic rounding"), std::string::npos) << console;
    EXPECT_EQ(console.find("master"), std::string::npos) << console;
    const Trace expected = trace_of(w.path() / "a");
    EXPECT_EQ(expected.optimizer.find("master/"), std::string::npos);
    if (steps == 40) {
      EXPECT_LT(expected.losses.back().get<double>(), expected.losses.front().get<double>() - 1.0);
    }
    run("b", {});
    EXPECT_TRUE(trace_of(w.path() / "b") == expected);
    fs::remove_all(w.path() / ("b/checkpoint-" + std::to_string(steps)));
    fs::remove(w.path() / "b/last");
    run("b", {"train.resume=true"});
    EXPECT_TRUE(trace_of(w.path() / "b") == expected);
    run("c", {"train.seed=43", "data.seed=42"});
    EXPECT_FALSE(trace_of(w.path() / "c") == expected);
  }
}

TEST(Bf16AloneRules, Fp32HasNothingToRound) {
  const Workspace w;
  const Outcome outcome =
      run_here(tiny_llama(w) + std::vector<std::string>{"optimizer.stochastic_rounding=true"});
  EXPECT_EQ(outcome.code, "CFG-CONFLICT") << outcome.error;
}

}  // namespace
}  // namespace engine::testing
