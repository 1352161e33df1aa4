// Whole runs of an encoder-decoder model: it learns, and keeps the promises of bits that the others
// keep.
#include <cmath>

#include "tests/train/support.h"

namespace engine::testing {
namespace {

namespace fs = std::filesystem;
using Settings = std::vector<std::string>;

TEST(Seq2Seq, LearnsToWriteWordsBackwards) {
  const Workspace w;
  const std::string pairs = (w.path() / "pairs.jsonl").string();
  const Outcome outcome = run_here(
      tiny_t5(w) + Settings{"data.validation=" + pairs, "model.dropout=0", "train.max_steps=400",
                            "train.micro_batch_tokens=480", "train.log_every=100",
                            "train.eval_every=400", "optimizer.lr=1e-2", "train.sample.every=400",
                            "train.sample.prompts=[abc, dda]", "train.sample.max_new_tokens=8"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
  const fs::path run = w.path() / "run";
  // A guess of letters and ends would have a loss of about 1.
  const nlohmann::json eval = metrics(run, "eval").back();
  EXPECT_LT(eval["loss"].get<double>(), 0.05);
  EXPECT_EQ(eval["rows"], 64);
  EXPECT_EQ(eval["tokens_trained"], 64 * 4);  // three letters and the end
  const auto samples = metrics(run, "sample");
  ASSERT_EQ(samples.size(), 2u);
  EXPECT_EQ(samples[0]["text"], "cba");
  EXPECT_EQ(samples[0]["stop"], "eos");
  EXPECT_EQ(samples[1]["text"], "add");
  const nlohmann::json step = metrics(run, "train").back();
  EXPECT_GT(step["tokens"], step["tokens_trained"]);  // sources count, and are not trained on
  // What transformers must be told about such a model.
  const auto config = nlohmann::json::parse(file_bytes(run / "last/config.json"));
  EXPECT_EQ(config["decoder_start_token_id"], 0);
  EXPECT_EQ(config["is_encoder_decoder"], true);
  EXPECT_EQ(config["architectures"][0], "T5ForConditionalGeneration");
}

TEST(Seq2Seq, SameBytesOnRerunThreadsAndRecompute) {
  const Workspace w;
  for (const std::string precision : {"fp32", "bf16"}) {
    std::string model, optimizer;
    for (const char* change :
         {"train.threads=1", "train.threads=3", "train.recompute=norms", "train.recompute=block"}) {
      const fs::path out = w.path() / "run";
      fs::remove_all(out);
      const Outcome outcome = run_here(
          tiny_t5(w) + Settings{"train.precision=" + precision, "train.accumulation=2", change});
      ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
      const std::string these = file_bytes(out / "last/model.safetensors");
      const std::string state = file_bytes(out / "last/engine_state/optimizer.safetensors");
      if (model.empty()) {
        model = these;
        optimizer = state;
        continue;
      }
      EXPECT_TRUE(model == these) << precision << " " << change;
      EXPECT_TRUE(optimizer == state) << precision << " " << change;
    }
  }
}

TEST(Seq2Seq, ResumedRunIsTheContinuation) {
  const Workspace w;
  const Settings settings = tiny_t5(w) + Settings{"data.validation_fraction=0.2",
                                                  "train.save_every=3", "train.eval_every=2"};
  const fs::path whole = w.path() / "whole", cut = w.path() / "cut";
  ASSERT_EQ(run_here(settings + Settings{"train.output_dir=" + whole.string()}).exit_code, 0);
  ASSERT_EQ(run_here(settings + Settings{"train.output_dir=" + cut.string()}).exit_code, 0);
  fs::remove_all(cut / "checkpoint-6");
  fs::remove(cut / "last");
  const Outcome outcome =
      run_here(settings + Settings{"train.output_dir=" + cut.string(), "train.resume=true"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
  for (const char* file : {"last/model.safetensors", "last/engine_state/optimizer.safetensors"}) {
    EXPECT_TRUE(file_bytes(whole / file) == file_bytes(cut / file)) << file;
  }
  EXPECT_EQ(metrics(whole, "train"), metrics(cut, "train"));
  EXPECT_EQ(metrics(whole, "eval"), metrics(cut, "eval"));
}

TEST(Seq2Seq, PackingAndAccumulationDoNotChangeTheStep) {
  const Workspace w;
  std::vector<NamedTensor> first;
  double loss = 0;
  int run = 0;
  for (const Settings& batching :
       {Settings{"data.packing=rows", "train.micro_batch_rows=64", "train.micro_batch_tokens=null"},
        Settings{"data.packing=rows", "train.micro_batch_rows=16", "train.micro_batch_tokens=null",
                 "train.accumulation=4"},
        Settings{"train.micro_batch_tokens=1024"}}) {
    const fs::path out = w.path() / std::to_string(run++);
    const Outcome outcome = run_here(
        tiny_t5(w) + batching +
        Settings{"train.output_dir=" + out.string(), "train.max_steps=1", "model.dropout=0",
                 // As in determinism_test.cpp: no whole steps out of rounding.
                 "optimizer.eps=0.1"});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
    const double this_loss = metrics(out, "train").at(0)["loss"];
    const std::vector<NamedTensor> weights = read_tensors(out / "last/model.safetensors");
    if (first.empty()) {
      first = weights;
      loss = this_loss;
      continue;
    }
    // fp32 sums of a few hundred terms in another order.
    EXPECT_NEAR(this_loss, loss, 2e-6);
    EXPECT_LE(max_difference(first, weights), 1e-6);
  }
}

TEST(Seq2Seq, SavedModelIsTrainedFurther) {
  const Workspace w;
  const Settings settings = tiny_t5(w);
  const fs::path model = saved_model(w, settings);
  const Outcome outcome = run_here(from_model(settings, model) + Settings{"train.max_steps=2"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
  // A head of its own has no scale; it is trained and saved apart from the table.
  const fs::path out = w.path() / "untied";
  ASSERT_EQ(run_here(settings + Settings{"model.config.tie_word_embeddings=false",
                                         "train.output_dir=" + out.string()})
                .exit_code,
            0);
  bool head = false;
  for (const NamedTensor& tensor : read_tensors(out / "last/model.safetensors")) {
    head = head || tensor.name == "lm_head.weight";
  }
  EXPECT_TRUE(head);
}

TEST(Seq2Seq, MistakesAndTheDryRun) {
  const Workspace w;
  EXPECT_EQ(run_here(tiny_t5(w) + Settings{"data.packing=stream"}).code, "CFG-CONFLICT");
  EXPECT_EQ(run_here(tiny_t5(w) + Settings{"data.overflow=split"}).code, "CFG-CONFLICT");
  EXPECT_EQ(run_here(tiny_t5(w) + Settings{"data.max_target_length=2"}).code, "DATA-OVERFLOW");
  EXPECT_EQ(run_here(tiny_t5(w) + Settings{"data.max_target_length=2",
                                           "data.overflow=truncate_right", "train.max_steps=1"})
                .exit_code,
            0);
  const Outcome text =
      run_here(tiny_t5(w) + Settings{"data.train=" + (w.path() / "train.txt").string()});
  EXPECT_EQ(text.code, "DATA-FORMAT") << text.error;
  const Outcome dry = run_here(
      tiny_t5(w) + Settings{"train.output_dir=" + (w.path() / "no").string()}, {.dry_run = true});
  ASSERT_EQ(dry.exit_code, 0) << dry.error;
  EXPECT_FALSE(fs::exists(w.path() / "no"));
  const Outcome small =
      run_here(tiny_t5(w) + Settings{"train.memory_limit=100000"}, {.dry_run = true});
  EXPECT_EQ(small.code, "MEM-PLAN") << small.error;
}

// The first bad value is named, with its stack.
TEST(Seq2Seq, NonfiniteValuesAreFound) {
  const Workspace w;
  const Settings settings = tiny_t5(w);
  const fs::path model = saved_model(w, settings);
  edit_model(model, [](std::vector<NamedTensor>& tensors) {
    for (NamedTensor& tensor : tensors) {
      if (tensor.name != "encoder.block.1.layer.1.DenseReluDense.wo.weight") continue;
      for (float& value : tensor.values) value = 3e38f;
    }
  });
  const Outcome outcome = run_here(from_model(settings, model));
  EXPECT_EQ(outcome.code, "NUM-NAN");
  EXPECT_NE(outcome.error.find("the encoder's final norm"), std::string::npos) << outcome.error;
  EXPECT_NE(outcome.error.find("pairs.jsonl:"), std::string::npos) << outcome.error;
}

}  // namespace
}  // namespace engine::testing
