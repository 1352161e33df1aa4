// Whole runs on every device beside the CPU: the CPU's losses, and the promises of bits that the
// CPU keeps.
#include <cmath>
#include <fstream>

#include "engine/core/device.h"
#include "kernels/api/backends.h"
#include "kernels/simt/counters.h"
#include "tests/support/devices.h"
#include "tests/train/support.h"

namespace engine::testing {
namespace {

namespace fs = std::filesystem;

class Gpu : public ::testing::TestWithParam<kernels::DeviceType> {
 protected:
  std::string on() const { return std::string("train.device=") + kernels::name_of(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Devices, Gpu, ::testing::ValuesIn(test_gpus()), device_name);

// 2 layers of 32, rows of up to 32 tokens, dropout (GPT-2), grouped heads (Llama), accumulation,
// clipping, evaluation.
std::vector<std::string> small_run(const Workspace& w, bool gpt2) {
  const std::vector<std::string> shape =
      gpt2 ? std::vector<std::string>{"model.config.n_embd=32"}
           : std::vector<std::string>{
                 "model.config.hidden_size=32", "model.config.intermediate_size=64",
                 "model.config.num_attention_heads=4", "model.config.num_key_value_heads=2"};
  return (gpt2 ? tiny_gpt2(w) : tiny_llama(w)) + shape +
         std::vector<std::string>{"train.max_steps=20",  "train.accumulation=2",
                                  "train.threads=2",     "data.validation_fraction=0.1",
                                  "train.eval_every=10", "optimizer.lr=3e-3"};
}

TEST_P(Gpu, LossesOfTheCpu) {
  for (const bool gpt2 : {true, false}) {
    for (const std::string precision : {"fp32", "bf16"}) {
      if (gpt2 && precision == "bf16") continue;  // the time
      const Workspace w;
      const std::vector<std::string> settings =
          small_run(w, gpt2) + std::vector<std::string>{"train.precision=" + precision};
      const fs::path there = w.path() / "there", here = w.path() / "here";
      const Outcome a =
          run_here(settings + std::vector<std::string>{on(), "train.output_dir=" + there.string()});
      ASSERT_EQ(a.exit_code, 0) << a.error;
      const Outcome b =
          run_here(settings + std::vector<std::string>{"train.output_dir=" + here.string()});
      ASSERT_EQ(b.exit_code, 0) << b.error;
      const auto theirs = metrics(there, "train"), ours = metrics(here, "train");
      ASSERT_EQ(theirs.size(), 20u);
      // fp32: sums in another order, which 20 steps of AdamW enlarge. bf16: roundings of
      // activations fall differently; each is 2^-9 of a value and they average out over the tokens
      // of a batch.
      const double tolerance = precision == "fp32" ? 1e-3 : 5e-3;
      for (size_t i = 0; i < 20; ++i) {
        EXPECT_NEAR(theirs[i]["loss"].get<double>(), ours[i]["loss"].get<double>(), tolerance)
            << precision << " step " << i + 1;
        EXPECT_EQ(theirs[i]["tokens_trained"], ours[i]["tokens_trained"]);
      }
      EXPECT_LT(ours.back()["loss"].get<double>(), ours.front()["loss"].get<double>() - 1.0);
      EXPECT_NEAR(metrics(there, "eval").back()["loss"].get<double>(),
                  metrics(here, "eval").back()["loss"].get<double>(), tolerance);
    }
  }
}

// T5: relative biases, cross-attention, sources and targets of different lengths, dropout.
TEST_P(Gpu, LossesOfTheCpuOfAnEncoderDecoder) {
  for (const std::string precision : {"fp32", "bf16"}) {
    const Workspace w;
    const std::vector<std::string> settings =
        tiny_t5(w) + std::vector<std::string>{"train.max_steps=8",
                                              "train.accumulation=2",
                                              "train.threads=2",
                                              "data.validation_fraction=0.2",
                                              "train.eval_every=4",
                                              "optimizer.lr=1e-2",
                                              "train.micro_batch_tokens=64",
                                              "train.precision=" + precision};
    const fs::path there = w.path() / "there", here = w.path() / "here";
    const Outcome a =
        run_here(settings + std::vector<std::string>{on(), "train.output_dir=" + there.string()});
    ASSERT_EQ(a.exit_code, 0) << a.error;
    const Outcome b =
        run_here(settings + std::vector<std::string>{"train.output_dir=" + here.string()});
    ASSERT_EQ(b.exit_code, 0) << b.error;
    const auto theirs = metrics(there, "train"), ours = metrics(here, "train");
    ASSERT_EQ(theirs.size(), 8u);
    // As above; in bf16 a few dozen targets are fewer to average over.
    const double tolerance = precision == "fp32" ? 1e-3 : 2e-2;
    for (size_t i = 0; i < theirs.size(); ++i) {
      EXPECT_NEAR(theirs[i]["loss"].get<double>(), ours[i]["loss"].get<double>(), tolerance)
          << precision << " step " << i + 1;
      EXPECT_EQ(theirs[i]["tokens_trained"], ours[i]["tokens_trained"]);
    }
    EXPECT_LT(ours.back()["loss"].get<double>(), ours.front()["loss"].get<double>() - 0.5);
    EXPECT_NEAR(metrics(there, "eval").back()["loss"].get<double>(),
                metrics(here, "eval").back()["loss"].get<double>(), tolerance);
  }
}

// Heads of 64: on Hopper, which the software GPU claims to be, attention runs on wgmma, and with
// --attention mma on mma.sync as everywhere.
TEST_P(Gpu, WideHeadsHaveTheLossesOfTheCpu) {
  const Workspace w;
  const auto losses = [&](const std::string& name, const std::string& device) {
    const fs::path out = w.path() / name;
    const Outcome outcome =
        run_here(tiny_llama(w) +
                 std::vector<std::string>{
                     device, "train.output_dir=" + out.string(), "model.config.hidden_size=128",
                     "model.config.intermediate_size=64", "model.config.num_attention_heads=2",
                     "model.config.num_key_value_heads=1", "train.precision=bf16",
                     "train.max_steps=5", "train.threads=2", "optimizer.lr=3e-3"});
    EXPECT_EQ(outcome.exit_code, 0) << outcome.error;
    std::vector<double> result;
    for (const auto& record : metrics(out, "train")) result.push_back(record["loss"]);
    return result;
  };
  const bool simulated = GetParam() == kernels::DeviceType::simt;
  const std::vector<double> here = losses("here", "train.device=cpu");
  ASSERT_EQ(here.size(), 5u);
  for (const auto backend : {kernels::AttentionBackend::engine, kernels::AttentionBackend::mma}) {
    const bool ours = backend == kernels::AttentionBackend::engine;
    kernels::select_attention(backend);
    if (simulated) kernels::simt::start_counting();
    const std::vector<double> there = losses(ours ? "engine" : "mma", on());
    kernels::select_attention(kernels::AttentionBackend::engine);
    if (simulated) {
      const auto counted = kernels::simt::stop_counting();
      EXPECT_EQ(counted.contains("attention_forward_wgmma"), ours);
      EXPECT_EQ(counted.contains("attention_forward"), !ours);
    }
    ASSERT_EQ(there.size(), 5u);
    for (size_t i = 0; i < 5; ++i) EXPECT_NEAR(there[i], here[i], 5e-3) << "step " << i + 1;
  }
}

TEST_P(Gpu, SameBitsOnRerunRecomputeAndAnyNumberOfThreads) {
  for (const bool gpt2 : {true, false}) {
    const Workspace w;
    std::string model, optimizer;
    std::vector<nlohmann::json> losses;
    for (const char* change :
         {"train.recompute=none", "train.recompute=none", "train.recompute=norms",
          "train.recompute=block", "train.threads=1"}) {
      const fs::path out = w.path() / "run";
      fs::remove_all(out);
      const Outcome outcome =
          run_here(small_run(w, gpt2) + std::vector<std::string>{on(), change, "train.max_steps=4",
                                                                 "train.precision=bf16",
                                                                 "train.eval_every=2"});
      ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
      const std::string these = file_bytes(out / "last/model.safetensors");
      const std::string state = file_bytes(out / "last/engine_state/optimizer.safetensors");
      std::vector<nlohmann::json> trace;
      for (const auto& record : metrics(out, "train")) trace.push_back(record["loss"]);
      if (model.empty()) {
        model = these;
        optimizer = state;
        losses = trace;
        continue;
      }
      EXPECT_TRUE(model == these) << change;
      EXPECT_TRUE(optimizer == state) << change;
      EXPECT_EQ(losses, trace) << change;
    }
  }
}

TEST_P(Gpu, ClassifierLearns) {
  const Workspace w;
  std::string rows;
  for (int i = 0; i < 48; ++i) {
    const bool a = i % 2 == 0;
    rows += std::string("{\"text\": \"") + (a ? "a fine day " : "zero ") + std::to_string(i) +
            "\", \"label\": \"" + (a ? "good" : "bad") + "\"}\n";
  }
  w.write("classes.jsonl", rows);
  const Outcome outcome = run_here(
      small_run(w, false) +
      std::vector<std::string>{on(), "model.task=sequence_classification",
                               "data.train=" + (w.path() / "classes.jsonl").string(),
                               "data.label_field=label", "train.accumulation=1",
                               "train.micro_batch_tokens=128", "data.validation_fraction=0.25"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
  EXPECT_EQ(metrics(w.path() / "run", "eval").back()["acc"].get<double>(), 1.0);
}

TEST_P(Gpu, BannerAndNotice) {
  const Workspace w;
  const Outcome outcome =
      run_here(small_run(w, true) + std::vector<std::string>{on()}, {.dry_run = true});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
  const kernels::Stream device{.device = GetParam()};
  const std::string name = kernels::operations(device).device_info(device).name;
  EXPECT_NE(outcome.console.find("×" + name), std::string::npos) << outcome.console;
  const std::string notice = device_notice(device);
  EXPECT_EQ(outcome.console.find("simulates") != std::string::npos, !notice.empty());
}

// A run of one device is not continued on another by accident: the bits would be others.
TEST_P(Gpu, ResumingOnAnotherDeviceIsAChange) {
  const Workspace w;
  const std::vector<std::string> settings =
      small_run(w, true) + std::vector<std::string>{"train.max_steps=2"};
  ASSERT_EQ(run_here(settings).exit_code, 0);
  const Outcome outcome = run_here(settings + std::vector<std::string>{on(), "train.resume=true"});
  EXPECT_EQ(outcome.code, "RESUME-CHANGED");
  EXPECT_NE(outcome.error.find("train.device: \"cpu\" -> "), std::string::npos) << outcome.error;
}

}  // namespace
}  // namespace engine::testing
