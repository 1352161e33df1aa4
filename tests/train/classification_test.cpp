// Classifiers: what they learn from, what a run says of them, and that their steps are as exact as
// those of language models.
#include <fmt/format.h>

#include "tests/train/support.h"

namespace engine::testing {
namespace {

namespace fs = std::filesystem;
using Options = std::vector<std::string>;

// 64 positions; they are counted from the padding id, which is no token of the byte tokenizer.
Options tiny_roberta(const Workspace& w) {
  return tiny_llama(w) +
         Options{
             "model.config={model_type: roberta, vocab_size: 258, pad_token_id: 257, "
             "hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2, "
             "num_attention_heads: 2, max_position_embeddings: 322, type_vocab_size: 1, "
             "layer_norm_eps: 1e-5}",
             "model.task=sequence_classification", "optimizer.lr=5e-3"};
}

// Rows {"text", "label"} of which the label is label_of(i).
template <typename Label>
std::string rows(int count, const Label& label_of) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    const char* const word = i % 3 == 0 ? "a fine" : i % 3 == 1 ? "an awful" : "some";
    text +=
        nlohmann::json{{"text", fmt::format("{} day {}", word, i)}, {"label", label_of(i)}}.dump() +
        "\n";
  }
  return text;
}
std::string named_rows(int count) {
  return rows(count, [](int i) { return i % 3 == 0 ? "good" : i % 3 == 1 ? "bad" : "none"; });
}

Options trained_on(const Workspace& w, const std::string& content) {
  return {"data.train=" + w.write("rows.jsonl", content).string()};
}

nlohmann::json config_of(const fs::path& model) {
  return nlohmann::json::parse(file_bytes(model / "config.json"));
}

TEST(Classification, RobertaLearnsNamesOfClasses) {
  const Workspace w;
  const Outcome outcome =
      run_here(tiny_roberta(w) + trained_on(w, named_rows(90)) +
               Options{"train.max_steps=300", "train.micro_batch_tokens=512", "train.log_every=20",
                       "data.validation_fraction=0.3", "train.eval_at_start=true",
                       "train.best_metric=f1_macro", "train.eval_every=300"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
  const fs::path out = w.path() / "run";
  const auto evals = metrics(out, "eval");
  ASSERT_EQ(evals.size(), 2u);
  EXPECT_LT(evals[1]["loss"], 0.2 * evals[0]["loss"].get<double>());
  EXPECT_EQ(evals[1]["acc"], 1.0);
  EXPECT_TRUE(evals[1]["ppl"].is_null());
  EXPECT_EQ(evals[1]["metrics"]["f1_macro"], 1.0);
  EXPECT_EQ(evals[1]["metrics"]["matthews"], 1.0);
  EXPECT_EQ(evals[1]["groups"]["bad"]["f1"], 1.0);
  EXPECT_TRUE(evals[1]["best"]);
  EXPECT_EQ(evals[1]["tokens_trained"], evals[1]["rows"]);
  const nlohmann::json config = config_of(out / "best");
  EXPECT_EQ(config["architectures"][0], "RobertaForSequenceClassification");
  EXPECT_EQ(config["id2label"], (nlohmann::json{{"0", "bad"}, {"1", "good"}, {"2", "none"}}));
  EXPECT_EQ(config["problem_type"], "single_label_classification");
  EXPECT_NE(outcome.console.find("single_label_classification, 3 labels: bad, good, none"),
            std::string::npos)
      << outcome.console;
  EXPECT_NE(outcome.console.find(" labelled)"), std::string::npos);
}

TEST(Classification, RobertaLearnsNumbers) {
  const Workspace w;
  const Outcome outcome = run_here(
      tiny_roberta(w) + trained_on(w, rows(90, [](int i) { return i % 3 - 0.5; })) +
      Options{"train.max_steps=80", "train.micro_batch_tokens=512", "train.log_every=20",
              "data.validation_fraction=0.3", "train.best_metric=pearson", "train.eval_every=80"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
  const nlohmann::json eval = metrics(w.path() / "run", "eval").back();
  EXPECT_LT(eval["loss"], 0.1);  // of a variance of 2/3
  EXPECT_GT(eval["metrics"]["pearson"], 0.95);
  EXPECT_TRUE(eval["acc"].is_null());
  EXPECT_EQ(config_of(w.path() / "run/best")["problem_type"], "regression");
  EXPECT_EQ(config_of(w.path() / "run/best")["id2label"].size(), 1u);
}

TEST(Classification, RobertaLearnsSeveralLabelsAtOnce) {
  const Workspace w;
  const auto set = [](int i) {
    return i % 3 == 0   ? nlohmann::json{"day", "good"}
           : i % 3 == 1 ? nlohmann::json{"day"}
                        : nlohmann::json::array();
  };
  const Outcome outcome =
      run_here(tiny_roberta(w) + trained_on(w, rows(90, set)) +
               Options{"train.max_steps=300", "train.micro_batch_tokens=512", "train.log_every=20",
                       "data.validation_fraction=0.3", "train.eval_every=300"});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
  const nlohmann::json eval = metrics(w.path() / "run", "eval").back();
  EXPECT_EQ(eval["acc"], 1.0);
  EXPECT_EQ(eval["metrics"]["f1_micro"], 1.0);
  EXPECT_EQ(eval["groups"]["day"]["recall"], 1.0);
  EXPECT_EQ(config_of(w.path() / "run/best")["problem_type"], "multi_label_classification");
}

TEST(Classification, ALanguageModelGetsANewHead) {
  const Workspace w;
  const fs::path model = saved_model(w, tiny_llama(w));
  const Outcome outcome =
      run_here(from_model(tiny_llama(w), model) + trained_on(w, named_rows(12)) +
               Options{"model.task=sequence_classification", "train.max_steps=1",
                       "train.output_dir=" + (w.path() / "classifier").string()});
  ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
  EXPECT_NE(outcome.console.find("not in the checkpoint, newly initialised: score.weight"),
            std::string::npos)
      << outcome.console;
}

// Dropout is on: its places in the sequence of numbers must be the same, too.
TEST(Classification, ResumedAndRecomputedStepsHaveTheSameBits) {
  const Workspace w;
  const Options settings = tiny_roberta(w) + trained_on(w, named_rows(40));
  const auto model_of = [&](const std::string& name, const Options& more) {
    const fs::path out = w.path() / name;
    const Outcome outcome = run_here(settings + Options{"train.output_dir=" + out.string()} + more);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.error;
    return file_bytes(out / "last/model.safetensors");
  };
  const std::string whole = model_of("whole", {});
  EXPECT_TRUE(whole == model_of("norms", {"train.recompute=norms"}));
  EXPECT_TRUE(whole == model_of("block", {"train.recompute=block"}));
  EXPECT_TRUE(whole == model_of("threads", {"train.threads=3"}));
  // Interrupted after three steps: a run of six that is asked to stop then.
  const fs::path out = w.path() / "resumed";
  const Options to_there = settings + Options{"train.output_dir=" + out.string(),
                                              "train.save_every=3", "train.keep_checkpoints=0"};
  ASSERT_EQ(run_here(to_there).exit_code, 0);
  fs::remove_all(out / "checkpoint-6");
  fs::remove(out / "last");
  const Outcome resumed = run_here(to_there + Options{"train.resume=true"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.error;
  EXPECT_TRUE(whole == file_bytes(out / "last/model.safetensors"));
}

// fp32 sums in another order: 1e-6 is some 10 ulp of them.
TEST(Classification, AccumulationEqualsOneLargeBatch) {
  const Workspace w;
  for (const bool numbers : {false, true}) {
    const std::string content = numbers ? rows(8, [](int i) { return i * 0.3; }) : named_rows(8);
    std::vector<NamedTensor> weights[2];
    double losses[2];
    for (const int parts : {1, 4}) {
      const fs::path out = w.path() / fmt::format("{}-{}", numbers, parts);
      const Outcome outcome =
          run_here(tiny_roberta(w) + trained_on(w, content) +
                   Options{"train.output_dir=" + out.string(), "train.max_steps=1",
                           "model.dropout=0", "data.packing=rows", "train.micro_batch_tokens=null",
                           "optimizer.eps=0.1", fmt::format("train.micro_batch_rows={}", 8 / parts),
                           fmt::format("train.accumulation={}", parts)});
      ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
      losses[parts > 1] = metrics(out, "train").at(0)["loss"];
      weights[parts > 1] = read_tensors(out / "last/model.safetensors");
    }
    EXPECT_NEAR(losses[0], losses[1], 1e-6);
    EXPECT_LE(max_difference(weights[0], weights[1]), 1e-6);
  }
}

TEST(Classification, Mistakes) {
  const Workspace w;
  const Options settings = tiny_roberta(w) + trained_on(w, named_rows(8));
  EXPECT_EQ(run_here(settings + Options{"train.best_metric=pearson"}).code, "CFG-RANGE");
  EXPECT_EQ(run_here(settings + Options{"data.overflow=split"}).code, "CFG-CONFLICT");
  EXPECT_EQ(run_here(settings + Options{"model.task=causal_lm"}).code, "MODEL-TASK");
  EXPECT_EQ(run_here(settings + Options{"model.label_names=[good, bad]"}).code, "DATA-LABEL");
  EXPECT_EQ(run_here(settings + Options{"data.max_length=65", "train.micro_batch_tokens=130"}).code,
            "CFG-CONFLICT");
  EXPECT_EQ(run_here(tiny_roberta(w) + trained_on(w, "{\"text\": \"a\"}\n")).code, "DATA-FIELD");
  // The byte tokenizer has no padding token, and RoBERTa counts from one.
  const Outcome no_padding = run_here(
      settings + Options{"model.config={model_type: roberta, hidden_size: 16, "
                         "intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}"});
  EXPECT_EQ(no_padding.code, "CONFIG-INVALID");
}

}  // namespace
}  // namespace engine::testing
