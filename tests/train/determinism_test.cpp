// The same run again gives the same bits, and the cutting of a step into micro-batches does not
// change what it computes.
#include <fstream>

#include "tests/train/support.h"

namespace engine::testing {
namespace {

namespace fs = std::filesystem;

// A run that uses everything that could be random: dropout, shuffling, several epochs,
// accumulation, evaluation.
const std::vector<std::string> kEverything = {"data.validation_fraction=0.1", "train.max_steps=24",
                                              "train.accumulation=2", "train.eval_every=10",
                                              "train.save_every=12"};

TEST(Determinism, RerunAndThreadCountsGiveTheSameBytes) {
  for (const bool gpt2 : {true, false}) {
    const Workspace w;
    const std::vector<std::string> settings = (gpt2 ? tiny_gpt2(w) : tiny_llama(w)) + kEverything;
    std::vector<nlohmann::json> records;
    std::string model, optimizer;
    for (const int threads : {1, 1, 2, 3}) {
      const fs::path out = w.path() / ("run" + std::to_string(threads));
      fs::remove_all(out);
      const Outcome outcome =
          run_here(settings + std::vector<std::string>{"train.output_dir=" + out.string(),
                                                       "train.threads=" + std::to_string(threads)});
      ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
      const std::string these = file_bytes(out / "last/model.safetensors");
      const std::string state = file_bytes(out / "last/engine_state/optimizer.safetensors");
      if (model.empty()) {
        model = these;
        optimizer = state;
        records = metrics(out);
        EXPECT_EQ(metrics(out, "train").size(), 24u);
        EXPECT_EQ(metrics(out, "eval").size(), 3u);
        EXPECT_GT(metrics(out, "train").back()["epoch"], 1.0);
        continue;
      }
      EXPECT_TRUE(model == these) << threads << " threads";
      EXPECT_TRUE(optimizer == state) << threads << " threads";
      EXPECT_EQ(metrics(out), records) << threads << " threads";
    }
  }
}

TEST(Determinism, RecomputeDoesNotChangeABit) {
  const Workspace w;
  std::string model;
  for (const std::string recompute : {"none", "norms", "block"}) {
    const fs::path out = w.path() / recompute;
    const Outcome outcome =
        run_here(tiny_gpt2(w) + std::vector<std::string>{"train.output_dir=" + out.string(),
                                                         "train.recompute=" + recompute});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
    const std::string these = file_bytes(out / "last/model.safetensors");
    if (model.empty()) model = these;
    EXPECT_TRUE(model == these) << recompute;
  }
}

struct OneStep {
  double loss = 0;
  std::vector<NamedTensor> weights, state;
};

OneStep one_step(const Workspace& w, const std::string& name,
                 const std::vector<std::string>& settings) {
  const fs::path out = w.path() / name;
  const Outcome outcome = run_here(
      tiny_llama(w) + settings +
      std::vector<std::string>{"train.output_dir=" + out.string(), "train.max_steps=1",
                               // AdamW divides by the size of the gradient, and so turns rounding
                               // of gradients near 0 into whole steps; this eps does not.
                               "optimizer.eps=0.1"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.error;
  return {metrics(out, "train").at(0)["loss"], read_tensors(out / "last/model.safetensors"),
          read_tensors(out / "last/engine_state/optimizer.safetensors")};
}

// fp32 sums of a few hundred terms of size 1e-2 in another order: 1e-6 is some 10 ulp of them.
constexpr double kSameStep = 1e-6;

TEST(Equivalence, AccumulationEqualsOneLargeBatch) {
  const Workspace w;
  const OneStep whole = one_step(w, "1x8",
                                 {"data.packing=rows", "train.micro_batch_rows=8",
                                  "train.micro_batch_tokens=null", "train.accumulation=1"});
  const OneStep parts = one_step(w, "4x2",
                                 {"data.packing=rows", "train.micro_batch_rows=2",
                                  "train.micro_batch_tokens=null", "train.accumulation=4"});
  EXPECT_NEAR(whole.loss, parts.loss, kSameStep);
  EXPECT_LE(max_difference(whole.weights, parts.weights), kSameStep);
  EXPECT_LE(max_difference(whole.state, parts.state), kSameStep);
}

TEST(Equivalence, PackedEqualsRows) {
  const Workspace w;
  w.write("few.txt", made_up_text(12, 7));
  const std::string data = "data.train=" + (w.path() / "few.txt").string();
  const OneStep rows = one_step(
      w, "rows",
      {data, "data.packing=rows", "train.micro_batch_rows=12", "train.micro_batch_tokens=null"});
  const OneStep packed = one_step(w, "packed", {data, "train.micro_batch_tokens=1024"});
  EXPECT_NEAR(rows.loss, packed.loss, kSameStep);
  EXPECT_LE(max_difference(rows.weights, packed.weights), kSameStep);
}

TEST(Equivalence, EvaluationDoesNotDependOnTheMicroBatch) {
  const Workspace w;
  // 13 documents: a ragged last batch for all but the first.
  const fs::path validation = w.write("validation.txt", made_up_text(13, 9));
  double first = 0;
  for (const int rows : {1, 2, 4, 5, 13}) {
    const fs::path out = w.path() / std::to_string(rows);
    const Outcome outcome =
        run_here(tiny_gpt2(w) + std::vector<std::string>{
                                    "train.output_dir=" + out.string(), "train.max_steps=1",
                                    "data.validation=" + validation.string(), "data.packing=rows",
                                    "train.micro_batch_tokens=null", "train.eval_at_start=true",
                                    "train.micro_batch_rows=" + std::to_string(rows)});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
    const nlohmann::json record = metrics(out, "eval").at(0);
    EXPECT_EQ(record["step"], 0);
    EXPECT_EQ(record["rows"], 13);
    if (first == 0) first = record["loss"];
    EXPECT_NEAR(record["loss"].get<double>(), first, 1e-6) << rows << " rows";
  }
}

TEST(Precision, Bf16TrainsLikeFp32) {
  const Workspace w;
  double last[2];
  for (const bool bf16 : {false, true}) {
    const fs::path out = w.path() / (bf16 ? "bf16" : "fp32");
    const Outcome outcome =
        run_here(tiny_llama(w) +
                 std::vector<std::string>{"train.output_dir=" + out.string(), "train.max_steps=30",
                                          "train.micro_batch_tokens=512", "train.log_every=5",
                                          bf16 ? "train.precision=bf16" : "train.precision=fp32"});
    ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
    const auto records = metrics(out, "train");
    last[bf16] = records.back()["loss"];
    EXPECT_LT(last[bf16], 0.7 * records.front()["loss"].get<double>());
  }
  EXPECT_NEAR(last[true] / last[false], 1.0, 0.02);
}

}  // namespace
}  // namespace engine::testing
