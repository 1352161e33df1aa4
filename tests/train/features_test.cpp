// What a run does besides lowering the loss: memory plan, evaluation, best/, early stopping,
// classification, dry runs, samples.
#include <fmt/format.h>

#include <cmath>

#include "engine/config/load.h"
#include "engine/step/memory_plan.h"
#include "engine/train/run_setup.h"
#include "tests/support/devices.h"
#include "tests/train/support.h"

namespace engine::testing {
namespace {

namespace fs = std::filesystem;
using Options = std::vector<std::string>;

TrainingShape shape_of(const RunSetup& setup, RecomputePolicy recompute) {
  TrainingShape shape = setup.training_shape;
  shape.recompute = recompute;
  return shape;
}

TEST(MemoryPlan, TooSmallALimitListsWhatWouldFitAndWritesNothing) {
  const Workspace w;
  const Options settings = tiny_gpt2(w) + Options{"model.config.n_layer=4"};
  const RunSetup setup = prepare_run(load_train_config({.path = "", .options = settings}).config);
  const size_t none =
      plan_training(setup.make_model, shape_of(setup, RecomputePolicy::none)).total();
  const size_t norms =
      plan_training(setup.make_model, shape_of(setup, RecomputePolicy::norms)).total();
  const size_t block =
      plan_training(setup.make_model, shape_of(setup, RecomputePolicy::block)).total();
  EXPECT_LT(block, norms);
  EXPECT_LT(norms, none);

  const Outcome between =
      run_here(settings + Options{fmt::format("train.memory_limit={}", (block + norms) / 2)});
  EXPECT_EQ(between.exit_code, 5);
  EXPECT_EQ(between.code, "MEM-PLAN");
  EXPECT_NE(between.error.find("train.recompute=block"), std::string::npos) << between.error;
  EXPECT_EQ(between.error.find("train.recompute=norms"), std::string::npos) << between.error;
  // What it proposes works.
  const Outcome accepted =
      run_here(settings + Options{fmt::format("train.memory_limit={}", (block + norms) / 2),
                                  "train.recompute=block"});
  EXPECT_EQ(accepted.exit_code, 0) << accepted.error;

  const Outcome tiny =
      run_here(settings + Options{"train.memory_limit=100000",
                                  "train.output_dir=" + (w.path() / "never").string()});
  EXPECT_EQ(tiny.exit_code, 5);
  EXPECT_EQ(tiny.code, "MEM-PLAN");
  EXPECT_FALSE(fs::exists(w.path() / "never"));
}

class PlannedMemory : public ::testing::TestWithParam<kernels::DeviceType> {};
INSTANTIATE_TEST_SUITE_P(Devices, PlannedMemory, ::testing::ValuesIn(test_devices()), device_name);

TEST_P(PlannedMemory, IsWhatTheRunTakes) {
  for (const bool gpt2 : {true, false}) {
    for (const char* recompute : {"none", "norms", "block"}) {
      const Workspace w;
      const Options settings =
          (gpt2 ? tiny_gpt2(w) : tiny_llama(w)) +
          Options{"data.validation_fraction=0.1", "train.micro_batch_tokens=256",
                  "train.max_steps=2", std::string("train.recompute=") + recompute,
                  std::string("train.device=") + kernels::name_of(GetParam())};
      const Outcome outcome = run_here(settings);
      ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
      const RunSetup setup =
          prepare_run(load_train_config({.path = "", .options = settings}).config);
      const MemoryPlan plan = plan_training(setup.make_model, setup.training_shape);
      // metrics() leaves the memory out: it depends on the machine's kernels.
      std::istringstream lines(file_bytes(w.path() / "run/metrics.jsonl"));
      size_t peak = 0;
      for (std::string line; std::getline(lines, line);) {
        const nlohmann::json record = nlohmann::json::parse(line);
        if (record["kind"] == "train") peak = std::max<size_t>(peak, record["mem_peak_bytes"]);
      }
      // What is alive at the peak. The plan may count a few sequences more than there are, and the
      // arena is larger by the holes between blocks.
      size_t alive = 0;
      for (const size_t bytes : plan.breakdown) alive += bytes;
      EXPECT_LE(peak, alive);
      EXPECT_GE(static_cast<double>(peak), 0.99 * static_cast<double>(alive))
          << recompute << (gpt2 ? " gpt2" : " llama");
      EXPECT_LE(alive, plan.total());
    }
  }
}

// Samples that need more than a step: their cache of keys and values is planned, and it comes out
// of the memory that the steps use.
TEST(MemoryPlan, CountsTheCacheOfSamples) {
  const Workspace w;
  const std::string prompt = made_up_text(2, 5).substr(0, 32);
  const Options settings =
      tiny_llama(w) + Options{"model.config.num_hidden_layers=8",
                              "train.micro_batch_tokens=32",
                              "model.config.num_key_value_heads=2",
                              "train.recompute=block",
                              "train.sample.every=2",
                              "train.sample.max_new_tokens=32",
                              "train.sample.prompts=" +
                                  nlohmann::json(std::vector<std::string>(12, prompt)).dump()};
  const RunSetup setup = prepare_run(load_train_config({.path = "", .options = settings}).config);
  const MemoryPlan plan = plan_training(setup.make_model, setup.training_shape);
  // 8 layers of keys and values, 12 prompts of 32 + 32 tokens, 16 wide, 4 bytes.
  EXPECT_EQ(plan.breakdown[static_cast<int>(MemoryCategory::kv_cache)], 8u * 2 * 12 * 64 * 16 * 4);
  size_t alive = 0;
  for (const size_t bytes : plan.breakdown) alive += bytes;
  TrainingShape without = setup.training_shape;
  without.samples.clear();
  const size_t total_without = plan_training(setup.make_model, without).total();
  EXPECT_LT(total_without, plan.total());

  const Outcome outcome = run_here(settings);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
  EXPECT_NE(outcome.console.find("kv cache"), std::string::npos) << outcome.console;
  EXPECT_EQ(metrics(w.path() / "run", "sample").size(), 3u * 12);
  std::istringstream lines(file_bytes(w.path() / "run/metrics.jsonl"));
  size_t peak = 0;
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json record = nlohmann::json::parse(line);
    if (record["kind"] == "train") peak = std::max<size_t>(peak, record["mem_peak_bytes"]);
  }
  EXPECT_EQ(peak, alive);

  const Outcome refused = run_here(
      settings + Options{fmt::format("train.memory_limit={}", (plan.total() + total_without) / 2)});
  EXPECT_EQ(refused.code, "MEM-PLAN");
  EXPECT_NE(refused.error.find("train.sample.every=0"), std::string::npos) << refused.error;
}

TEST(Evaluation, EarlyStoppingAfterPatienceAndBestIsTheBest) {
  const Workspace w;
  const fs::path out = w.path() / "run";
  // A learning rate that soon makes it worse.
  const Outcome outcome =
      run_here(tiny_llama(w) + Options{"data.validation_fraction=0.2", "train.max_steps=200",
                                       "train.eval_every=1", "train.early_stopping.patience=3",
                                       "train.save_every=1", "train.keep_checkpoints=0",
                                       "optimizer.lr=0.5", "train.max_grad_norm=0"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
  const auto evals = metrics(out, "eval");
  double best = INFINITY;
  int64_t best_step = 0, since = 0;
  for (size_t i = 0; i < evals.size(); ++i) {
    const bool better = evals[i]["loss"].is_number() && evals[i]["loss"] < best;
    EXPECT_EQ(evals[i]["best"], better) << evals[i];
    if (better) {
      best = evals[i]["loss"];
      best_step = evals[i]["step"];
    }
    since = better ? 0 : since + 1;
    EXPECT_EQ(since == 3, i + 1 == evals.size()) << "evaluation " << i;
  }
  const nlohmann::json summary = metrics(out, "summary").at(0);
  EXPECT_EQ(summary["stopped_by"], "early_stopping");
  EXPECT_LT(summary["step"], 200);
  EXPECT_EQ(summary["best_step"], best_step);
  EXPECT_TRUE(file_bytes(out / "best/model.safetensors") ==
              file_bytes(out / ("checkpoint-" + std::to_string(best_step)) / "model.safetensors"));
}

std::string labelled_rows(int rows) {
  std::string text;
  for (int i = 0; i < rows; ++i) {
    const bool good = i % 2 == 0;
    text += nlohmann::json{{"text", fmt::format("{} day {}", good ? "a fine" : "an awful", i)},
                           {"mood", good ? "good" : "bad"}}
                .dump() +
            "\n";
  }
  return text;
}

TEST(Evaluation, LossOfEachLabel) {
  const Workspace w;
  const Outcome outcome = run_here(
      tiny_gpt2(w) + Options{"data.train=" + w.write("rows.jsonl", labelled_rows(40)).string(),
                             "data.label_field=mood", "data.validation_fraction=0.25"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
  const nlohmann::json record = metrics(w.path() / "run", "eval").at(0);
  int64_t rows = 0;
  for (const char* label : {"good", "bad"}) {
    ASSERT_TRUE(record["groups"].contains(label)) << record;
    EXPECT_GT(record["groups"][label]["loss"], 0.0);
    rows += record["groups"][label]["n"].get<int64_t>();
  }
  EXPECT_EQ(rows, record["rows"]);
}

TEST(Classification, LearnsAndReportsAccuracy) {
  const Workspace w;
  const Outcome outcome = run_here(
      tiny_llama(w) + Options{"model.task=sequence_classification", "train.max_steps=80",
                              "train.eval_every=80",
                              "data.train=" + w.write("rows.jsonl", labelled_rows(80)).string(),
                              "data.label_field=mood", "data.validation_fraction=0.25",
                              "train.eval_at_start=true", "train.best_metric=accuracy"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
  const auto evals = metrics(w.path() / "run", "eval");
  ASSERT_EQ(evals.size(), 2u);
  EXPECT_LT(evals[1]["loss"], 0.2 * evals[0]["loss"].get<double>());
  EXPECT_EQ(evals[1]["acc"], 1.0);
  const nlohmann::json config =
      nlohmann::json::parse(file_bytes(w.path() / "run/best/config.json"));
  EXPECT_EQ(config["architectures"][0], "LlamaForSequenceClassification");
  EXPECT_EQ(config["label2id"], (nlohmann::json{{"bad", 0}, {"good", 1}}));
  // The saved model knows its classes: it trains on without being told.
  const Outcome again = run_here(
      {"model.path=" + (w.path() / "run/best").string(), "model.task=sequence_classification",
       "data.train=" + (w.path() / "rows.jsonl").string(), "data.label_field=mood",
       "data.max_length=32", "train.max_steps=1", "train.log_every=1",
       "train.output_dir=" + (w.path() / "again").string(), "logging.tensorboard=false"});
  ASSERT_EQ(again.exit_code, 0) << again.error;
  EXPECT_LT(metrics(w.path() / "again", "train").at(0)["loss"],
            0.2 * evals[0]["loss"].get<double>());
}

TEST(DryRun, WritesNothing) {
  const Workspace w;
  const auto before = snapshot(w.path());
  const Outcome outcome =
      run_here(tiny_gpt2(w) + Options{"data.validation_fraction=0.1", "logging.tensorboard=true"},
               {.dry_run = true});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.error;
  EXPECT_NE(outcome.console.find("dry run"), std::string::npos);
  EXPECT_TRUE(snapshot(w.path()) == before);
  EXPECT_FALSE(fs::exists(w.path() / "run"));
}

TEST(Samples, StopAtTheTokenizersEosAndAreLogged) {
  const Workspace w;
  // Every document is "ab": soon the model knows that EOS comes after b.
  std::string text;
  for (int i = 0; i < 64; ++i) text += "ab\n\n";
  const Options settings = tiny_gpt2(w) + Options{"data.train=" + w.write("ab.txt", text).string(),
                                                  "model.dropout=0",
                                                  "train.max_steps=60",
                                                  "train.log_every=60",
                                                  "train.sample.every=60",
                                                  "train.sample.prompts=[a]",
                                                  "train.sample.max_new_tokens=20",
                                                  "optimizer.lr=3e-2"};
  const Outcome outcome = run_here(settings + Options{"model.config.eos_token_id=null"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
  const auto samples = metrics(w.path() / "run", "sample");
  ASSERT_EQ(samples.size(), 1u);
  EXPECT_EQ(samples[0]["prompt"], "a");
  EXPECT_EQ(samples[0]["text"], "b");
  EXPECT_EQ(samples[0]["stop"], "eos");
}

// Not after the first thousand steps.
TEST(Samples, PromptsAreCheckedBeforeTheFirstStep) {
  const Workspace w;
  const Options settings = tiny_gpt2(w) + Options{"train.sample.every=1000"};
  for (const std::string& prompt : {std::string(65, 'a'), std::string()}) {
    const Outcome outcome =
        run_here(settings + Options{"train.sample.prompts=" + nlohmann::json{prompt}.dump()});
    EXPECT_EQ(outcome.exit_code, 2) << outcome.error;
    EXPECT_EQ(outcome.code, "GEN-PROMPT");
    EXPECT_NE(outcome.error.find("train.sample.prompts"), std::string::npos) << outcome.error;
    EXPECT_FALSE(fs::exists(w.path() / "run"));
  }
}

TEST(Console, SaysWhatTheRunIs) {
  const Workspace w;
  const Outcome outcome = run_here(tiny_gpt2(w));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
  EXPECT_EQ(outcome.console.find("engine engine"), std::string::npos);
  EXPECT_NE(outcome.console.find("<|endoftext|>"), std::string::npos) << outcome.console;
  EXPECT_NE(outcome.console.find("step  6/6"), std::string::npos) << outcome.console;
}

}  // namespace
}  // namespace engine::testing
