#include "engine/train/report/trainer_state.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "engine/core/error.h"
#include "tests/train_report/temporary_directory.h"

namespace engine {
namespace {

using testing::read_all;
using testing::TemporaryDirectory;
using testing::write_all;

TrainerState example_state() {
  TrainerState state;
  state.fields.global_step = 2;
  state.fields.epoch = 1.0;
  state.fields.max_steps = 4;
  state.fields.num_train_epochs = 2;
  state.fields.logging_steps = 1;
  state.fields.best_metric = 1.5;
  state.fields.best_global_step = 2;
  state.fields.best_model_checkpoint = "run/checkpoint-2";
  TrainRecord train;
  train.step = 1;
  train.epoch = 0.5;
  train.loss = 2.25;
  train.grad_norm = 1.25;
  train.lr = 5e-05;
  state.add(train);
  EvalRecord eval;
  eval.step = 2;
  eval.epoch = 1;
  eval.loss = 1.5;
  eval.rows = 10;
  eval.batches = 5;
  eval.seconds = 2;
  eval.accuracy = 0.5;
  state.add(eval);
  return state;
}

TEST(TrainerState, TextIsThatOfHuggingFace) {
  // json.dumps(state, indent=2, sort_keys=True) + "\n" of Python for the same content.
  EXPECT_EQ(example_state().to_text(), R"({
  "best_global_step": 2,
  "best_metric": 1.5,
  "best_model_checkpoint": "run/checkpoint-2",
  "epoch": 1.0,
  "eval_steps": 0,
  "global_step": 2,
  "is_hyper_param_search": false,
  "is_local_process_zero": true,
  "is_world_process_zero": true,
  "log_history": [
    {
      "epoch": 0.5,
      "grad_norm": 1.25,
      "learning_rate": 5e-05,
      "loss": 2.25,
      "step": 1
    },
    {
      "epoch": 1.0,
      "eval_accuracy": 0.5,
      "eval_loss": 1.5,
      "eval_runtime": 2.0,
      "eval_samples_per_second": 5.0,
      "eval_steps_per_second": 2.5,
      "step": 2
    }
  ],
  "logging_steps": 1,
  "max_steps": 4,
  "num_input_tokens_seen": 0,
  "num_train_epochs": 2.0,
  "save_steps": 0,
  "stateful_callbacks": {},
  "total_flos": 0.0,
  "train_batch_size": 0,
  "trial_name": null,
  "trial_params": null
}
)");
}

TEST(TrainerState, ReadsBackWhatItWrote) {
  const TemporaryDirectory directory;
  const TrainerState state = example_state();
  state.write(directory / "trainer_state.json");
  TrainerState back = TrainerState::read(directory / "trainer_state.json");
  EXPECT_EQ(back.to_text(), state.to_text());
  SummaryRecord summary;
  summary.step = 2;
  summary.seconds = 10;
  back.add(summary, 40);
  EXPECT_EQ(back.history_size(), 3);
  const auto last = nlohmann::json::parse(back.to_text()).at("log_history").at(2);
  EXPECT_EQ(last.at("train_samples_per_second"), 4.0);
  EXPECT_EQ(last.at("train_steps_per_second"), 0.2);
  back.truncate_history(1);  // the evaluation of step 2 and the end of the run go
  EXPECT_EQ(back.history_size(), 1);
}

TEST(TrainerState, WritesLegalJsonForNaNAndReadsThePythonKind) {
  const TemporaryDirectory directory;
  TrainerState state = example_state();
  TrainRecord bad;
  bad.step = 3;
  bad.loss = std::numeric_limits<double>::quiet_NaN();
  state.add(bad);
  EXPECT_TRUE(nlohmann::json::parse(state.to_text()).at("log_history").at(2).at("loss").is_null());
  write_all(directory / "s.json",
            R"({"global_step": 7, "best_metric": null, "extra": "say \"NaN\" twice",
                "log_history": [{"step": 5, "loss": NaN, "x": -Infinity}], "total_flos": 1e15})");
  const TrainerState read = TrainerState::read(directory / "s.json");
  EXPECT_EQ(read.fields.global_step, 7);
  EXPECT_FALSE(read.fields.best_metric.has_value());
  EXPECT_EQ(read.fields.total_flops, 1e15);
  EXPECT_EQ(read.history_size(), 1);
}

TEST(TrainerState, RefusesOtherFiles) {
  const TemporaryDirectory directory;
  for (const char* text : {"", "[]", "{\"global_step\": 1", "{\"global_step\": \"x\"}",
                           "{\"global_step\": 1, \"log_history\": {}}",
                           "{\"global_step\": 1, \"log_history\": [3]}"}) {
    write_all(directory / "s.json", text);
    try {
      TrainerState::read(directory / "s.json");
      FAIL() << "accepted " << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), "CKPT-STATE") << text;
      EXPECT_EQ(error.exit_code(), ExitCode::checkpoint);
    }
  }
}

}  // namespace
}  // namespace engine
