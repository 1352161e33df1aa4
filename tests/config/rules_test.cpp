// What settings mean for each other.
#include "tests/config/support.h"

namespace engine {
namespace {

using testing::error_of;
using testing::load;

TEST(ConfigRules, OneOfAGroup) {
  for (const char* text : {"train: {epochs: 1, max_steps: 5}", "model: {path: a, config: b}",
                           "data: {validation: a, validation_fraction: 0.1}",
                           "train: {eval_every: 1, evals_per_epoch: 2}",
                           "schedule: {warmup_steps: 1, warmup_ratio: 0.1}",
                           "schedule: {type: wsd, decay_steps: 1, decay_ratio: 0.1}",
                           "model: {num_labels: 2, label_names: [a, b]}"}) {
    const std::string error = error_of(text);
    EXPECT_HAS(error, "error[CFG-CONFLICT]");
    EXPECT_HAS(error, "(c.yaml:1)");
  }
}

TEST(ConfigRules, OptionUnsetsTheOtherOfTheFile) {
  const LoadedTrainConfig loaded = load("train: {epochs: 1}", {"train.max_steps=5"});
  EXPECT_EQ(loaded.config.train.max_steps, 5);
  EXPECT_FALSE(loaded.config.train.epochs.has_value());
  EXPECT_EQ(loaded.origins.at("train.epochs").text, "unset by option train.max_steps=5");
  EXPECT_HAS(error_of("", {"train.epochs=1", "train.max_steps=5"}), "CFG-CONFLICT");
}

TEST(ConfigRules, MicroBatches) {
  EXPECT_EQ(load("data: {max_length: 100}").config.train.micro_batch_tokens, 800);
  const RunConfig rows = load("data: {packing: rows}").config.train;
  EXPECT_EQ(rows.micro_batch_rows, 8);
  EXPECT_FALSE(rows.micro_batch_tokens.has_value());
  const RunConfig both =
      load("data: {packing: rows}\ntrain: {micro_batch_rows: 4, micro_batch_tokens: 2000}")
          .config.train;
  EXPECT_EQ(both.micro_batch_rows, 4);
  EXPECT_EQ(both.micro_batch_tokens, 2000);
  EXPECT_HAS(error_of("train: {micro_batch_rows: 8}"), "number of tokens");
  EXPECT_HAS(error_of("train: {micro_batch_tokens: 8}"), "does not fit");
  EXPECT_HAS(error_of("data: {drop_last: true}"), "data.drop_last");
}

TEST(ConfigRules, Model) {
  EXPECT_EQ(load("model: {config: {n: 1}}").config.model.init, ModelInit::random);
  EXPECT_EQ(load("model: {path: a, init: random}").config.model.init, ModelInit::random);
  EXPECT_HAS(error_of("model: {config: a, init: pretrained}"), "CFG-CONFLICT");
  EXPECT_HAS(error_of("model: {task: sequence_classification}\ndata: {packing: stream}"),
             "CFG-CONFLICT");
  EXPECT_HAS(error_of("model: {task: sequence_classification, label_names: [a, b, a]}"),
             "CFG-CONFLICT");
  EXPECT_THROW(parse_train_config("data: {train: a}", {.path = "c", .options = {}}), Error);
  EXPECT_THROW(parse_train_config("model: {path: a}", {.path = "c", .options = {}}), Error);
  EXPECT_NO_THROW(
      parse_train_config("model: {path: a}\ndata: {train: b}", {.path = "c", .options = {}}));
}

TEST(ConfigRules, Run) {
  EXPECT_HAS(error_of("train: {early_stopping: {patience: 2}}"), "validation data");
  EXPECT_HAS(error_of("train: {sample: {every: 5}}"), "prompts");
  EXPECT_EQ(load("schedule: {type: wsd}").config.schedule.decay_ratio, 0.1);
  for (const char* device : {"cpu", "cuda", "cuda:0", "cuda:15"}) {
    EXPECT_EQ(load("", {std::string("train.device=") + device}).config.train.device, device);
  }
  for (const char* device : {"cuda:", "cuda:x", "cuda:-1", "gpu", ""}) {
    EXPECT_HAS(error_of("", {std::string("train.device=") + device}), "CFG-RANGE");
  }
}

TEST(ConfigRules, SettingsWithoutEffectAreReported) {
  EXPECT_EQ(load("train: {seed: 1}").warnings.size(), 0u);
  const LoadedTrainConfig loaded =
      load("schedule: {decay_ratio: 0.2}\ntrain: {eval_every: 5, residual: fp32}\n");
  ASSERT_EQ(loaded.warnings.size(), 3u);
  EXPECT_HAS(loaded.warnings[0], "train.eval_every = 5 (c.yaml:2) has no effect");
}

TEST(ConfigRules, BestMetricKnowsItsDirection) {
  RunConfig train;
  EXPECT_TRUE(train.lower_is_better());
  train.best_metric = "accuracy";
  EXPECT_FALSE(train.lower_is_better());
  train.best_direction = MetricDirection::minimize;
  EXPECT_TRUE(train.lower_is_better());
}

TEST(ConfigRules, FilesAreLookedForOnRequest) {
  const LoadedTrainConfig loaded = load("data:\n  train: [/no/*.jsonl, /no/such/file]\n");
  try {
    check_files(loaded.config, loaded.origins);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "CFG-FILE");
    EXPECT_HAS(error.what(), "/no/such/file");
    EXPECT_HAS(error.what(), "c.yaml:2");
  }
}

}  // namespace
}  // namespace engine
