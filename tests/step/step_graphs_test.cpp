// Recorded micro-batches have the bits of eager ones, whatever changes between them; the cache
// stays small; profilers see ranges that nest.
#include "engine/step/step_graphs.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "engine/step/memory_plan.h"
#include "kernels/simt/stream.h"
#include "models/registry.h"
#include "tests/support/devices.h"

namespace engine {
namespace {

// Small, with dropout at every place that has it, and grouped heads in the one.
nlohmann::ordered_json config(const std::string& family) {
  if (family == "gpt2") {
    return {{"model_type", "gpt2"}, {"n_embd", 16},      {"n_layer", 2},
            {"n_head", 2},          {"n_positions", 64}, {"vocab_size", 40},
            {"resid_pdrop", 0.2},   {"embd_pdrop", 0.2}, {"attn_pdrop", 0.2}};
  }
  return {{"model_type", "llama"},    {"hidden_size", 16},
          {"intermediate_size", 24},  {"num_hidden_layers", 2},
          {"num_attention_heads", 4}, {"num_key_value_heads", 2},
          {"vocab_size", 40},         {"max_position_embeddings", 64},
          {"attention_dropout", 0.2}};
}

// Sequences of these lengths, with content from `seed`; every third token has no target.
Batch batch_of(const std::vector<int>& lengths, int seed) {
  Batch batch;
  batch.cu_seqlens = {0};
  for (const int length : lengths) {
    for (int t = 0; t < length; ++t) {
      const int i = static_cast<int>(batch.input_ids.size());
      batch.input_ids.push_back((i * 7 + seed * 5) % 40);
      batch.positions.push_back(t);
      batch.targets.push_back((i + seed) % 3 == 0 ? kernels::kIgnoreIndex : (i * 11 + seed) % 40);
      batch.num_targets += batch.targets.back() >= 0;
    }
    batch.cu_seqlens.push_back(static_cast<int32_t>(batch.input_ids.size()));
    batch.rows.push_back(static_cast<uint32_t>(batch.rows.size()));
    batch.labels.push_back(static_cast<int32_t>(batch.labels.size() + static_cast<size_t>(seed)) %
                           3);
    batch.max_seqlen = std::max(batch.max_seqlen, static_cast<int32_t>(length));
  }
  return batch;
}

// A model on a device, ready to be trained.
struct Trained {
  Trained(kernels::DeviceType device, const nlohmann::ordered_json& config,
          const PrecisionPolicy& policy, Task task = Task::causal_lm)
      : runtime(device), precision(policy), model(make_model(config, "test", task)) {
    runtime.memory().reserve_arena(size_t{16} << 20);
    model->parameters().allocate(runtime, precision, ParameterSet::Purpose::training);
    model->parameters().initialize(runtime, 1);
    model->prepare(runtime, 64);
  }
  std::vector<std::vector<float>> gradients() {
    std::vector<std::vector<float>> all;
    for (const auto& p : model->parameters()) all.push_back(runtime.download(p->grad));
    return all;
  }
  ForwardOptions options(int step, RecomputePolicy recompute = RecomputePolicy::none) const {
    return {.graph = {.recompute = recompute,
                      .dropout_seed = 1000 + static_cast<uint64_t>(step),
                      .precision = precision},
            .grad_scale = 1.0f / static_cast<float>(20 + step)};
  }

  Runtime runtime;
  PrecisionPolicy precision;
  std::unique_ptr<Model> model;
};

class Graphs : public ::testing::TestWithParam<kernels::DeviceType> {};
INSTANTIATE_TEST_SUITE_P(Devices, Graphs, ::testing::ValuesIn(testing::test_gpus()),
                         testing::device_name);

TEST_P(Graphs, ReplaysHaveTheBitsOfEagerRuns) {
  struct Case {
    const char* family;
    PrecisionPolicy precision;
    RecomputePolicy recompute;
  };
  for (const Case& c : {Case{"gpt2", PrecisionPolicy::fp32(), RecomputePolicy::none},
                        Case{"gpt2", PrecisionPolicy::bf16(), RecomputePolicy::block},
                        Case{"llama", PrecisionPolicy::bf16(), RecomputePolicy::norms}}) {
    Trained graphed(GetParam(), config(c.family), c.precision);
    Trained plain(GetParam(), config(c.family), c.precision);
    StepGraphs graphs(graphed.runtime, *graphed.model, true);
    // 40 tokens in 3 or 4 sequences of other lengths each time: one shape, rounded up. Two others
    // between, of which only one comes back.
    const std::vector<std::vector<int>> batches = {{10, 10, 20},    {15, 5, 20}, {40},
                                                   {1, 19, 10, 10}, {7, 33},     {7, 14, 19},
                                                   {9, 21, 5, 5},   {12, 10, 18}};
    for (int step = 0; step < static_cast<int>(batches.size()); ++step) {
      const Batch batch = batch_of(batches[static_cast<size_t>(step)], step);
      const ForwardOptions options = graphed.options(step, c.recompute);
      std::vector<float> losses, expected;
      {
        const BatchLoss loss = graphs.run(batch, options);
        losses = graphed.runtime.download(loss.losses);
      }
      expected =
          plain.runtime.download(run_batch(plain.runtime, *plain.model, batch, options).losses);
      EXPECT_EQ(losses, expected) << c.family << " batch " << step;
      ASSERT_EQ(graphed.gradients(), plain.gradients()) << c.family << " batch " << step;
    }
    EXPECT_EQ(graphs.counts().eager, 4);
    EXPECT_EQ(graphs.counts().recorded, 1);
    EXPECT_EQ(graphs.counts().replayed, 3);
    EXPECT_EQ(graphed.runtime.memory().unplanned_peak(), 0u);
  }
}

TEST_P(Graphs, ClassifiersToo) {
  nlohmann::ordered_json json = config("llama");
  json["num_labels"] = 3;
  json["pad_token_id"] = 0;
  const auto task = Task::sequence_classification;
  Trained graphed(GetParam(), json, PrecisionPolicy::fp32(), task);
  Trained plain(GetParam(), json, PrecisionPolicy::fp32(), task);
  StepGraphs graphs(graphed.runtime, *graphed.model, true);
  const LabelTargets classes{.classes = {2, 0, 1}, .values = {}};
  for (int step = 0; step < 5; ++step) {
    const Batch batch = batch_of({6, 6, 6}, step);
    ForwardOptions options = graphed.options(step);
    options.label_targets = &classes;
    std::vector<float> losses;
    {
      const BatchLoss loss = graphs.run(batch, options);
      losses = graphed.runtime.download(loss.losses);
    }
    EXPECT_EQ(losses, plain.runtime.download(
                          run_batch(plain.runtime, *plain.model, batch, options).losses));
    ASSERT_EQ(graphed.gradients(), plain.gradients()) << step;
  }
  EXPECT_EQ(graphs.counts().replayed, 2);
}

TEST_P(Graphs, EncoderDecoderModelsToo) {
  const nlohmann::ordered_json json{{"model_type", "t5"},
                                    {"d_model", 16},
                                    {"d_ff", 24},
                                    {"d_kv", 8},
                                    {"num_heads", 2},
                                    {"num_layers", 1},
                                    {"vocab_size", 40},
                                    {"dropout_rate", 0.2},
                                    {"pad_token_id", 0},
                                    {"eos_token_id", 1},
                                    {"decoder_start_token_id", 0},
                                    {"feed_forward_proj", "gated-gelu"},
                                    {"relative_attention_num_buckets", 8},
                                    {"relative_attention_max_distance", 16},
                                    {"tie_word_embeddings", false}};
  Trained graphed(GetParam(), json, PrecisionPolicy::fp32());
  Trained plain(GetParam(), json, PrecisionPolicy::fp32());
  StepGraphs graphs(graphed.runtime, *graphed.model, true, {.eager_runs = 1});
  for (int step = 0; step < 4; ++step) {
    Batch batch = batch_of({5, 7}, step);
    batch.source.cu_seqlens = {0, 3 + step % 2, 12};  // the longest has another length
    batch.source.max_seqlen = 9 - step % 2;
    for (int i = 0; i < 12; ++i) batch.source.input_ids.push_back((i * 3 + step) % 40);
    const ForwardOptions options = graphed.options(step);
    std::vector<float> losses;
    {
      const BatchLoss loss = graphs.run(batch, options);
      losses = graphed.runtime.download(loss.losses);
    }
    EXPECT_EQ(losses, plain.runtime.download(
                          run_batch(plain.runtime, *plain.model, batch, options).losses));
    ASSERT_EQ(graphed.gradients(), plain.gradients()) << step;
  }
  EXPECT_EQ(graphs.counts().eager, 2) << "two shapes";
  EXPECT_EQ(graphs.counts().recorded, 2);
}

TEST_P(Graphs, NothingIsRecordedWhereAddressesWouldDiffer) {
  Trained trained(GetParam(), config("llama"), PrecisionPolicy::fp32());
  StepGraphs graphs(trained.runtime, *trained.model, true);
  const Tensor held = trained.runtime.transient({1000}, DType::f32);
  for (int step = 0; step < 4; ++step) graphs.run(batch_of({8}, step), trained.options(step));
  EXPECT_EQ(graphs.counts().eager, 4);
  StepGraphs off(trained.runtime, *trained.model, false);
  EXPECT_FALSE(off.enabled());
}

TEST_P(Graphs, RareShapesDoNotPushOutOthers) {
  Trained trained(GetParam(), config("llama"), PrecisionPolicy::fp32());
  StepGraphs graphs(trained.runtime, *trained.model, true,
                    {.eager_runs = 1, .recordings = 2, .stale = 6});
  for (int round = 0; round < 3; ++round) {
    for (int tokens = 1; tokens <= 3; ++tokens) {
      graphs.run(batch_of({tokens}, round), trained.options(round));
    }
  }
  EXPECT_EQ(graphs.counts().recorded, 2);
  EXPECT_EQ(graphs.counts().replayed, 2);
  EXPECT_EQ(graphs.counts().eager, 5);
  // Until the oldest has not been seen for long.
  for (int i = 0; i < 4; ++i) graphs.run(batch_of({2}, 0), trained.options(0));
  graphs.run(batch_of({3}, 0), trained.options(0));
  EXPECT_EQ(graphs.counts().recorded, 3);
  graphs.run(batch_of({3}, 0), trained.options(0));
  EXPECT_EQ(graphs.counts().replayed, 2 + 4 + 1);
}

// The dry run finds the arena that recording needs.
TEST_P(Graphs, ThePlanHolds) {
  const BatchShape largest{.tokens = 60, .sequences = 5, .longest = 30};
  const auto factory = [] { return make_model(config("gpt2"), "test"); };
  const MemoryPlan plan = plan_training(factory, {.precision = PrecisionPolicy::bf16(),
                                                  .train = largest,
                                                  .max_positions = 64,
                                                  .step_graphs = true,
                                                  .device = GetParam()});
  Trained trained(GetParam(), config("gpt2"), PrecisionPolicy::bf16());
  trained.runtime.memory().reserve_arena(plan.arena);
  StepGraphs graphs(trained.runtime, *trained.model, true);
  for (int step = 0; step < 4; ++step) {
    graphs.run(example_batch(largest), trained.options(step));
  }
  EXPECT_EQ(graphs.counts().replayed, 1);
  EXPECT_EQ(trained.runtime.memory().unplanned_peak(), 0u);
}

TEST(Ranges, NestAndNameTheLayersBothWays) {
  for (const RecomputePolicy recompute : {RecomputePolicy::none, RecomputePolicy::block}) {
    Trained trained(kernels::DeviceType::simt, config("llama"), PrecisionPolicy::fp32());
    std::vector<std::string> log;
    kernels::simt::set_range_log(&log);
    run_batch(trained.runtime, *trained.model, batch_of({8, 4}, 0), trained.options(0, recompute));
    kernels::simt::set_range_log(nullptr);
    const bool block = recompute == RecomputePolicy::block;
    std::vector<std::string> expected = {"+forward", "+layer 0", "-", "+layer 1", "-",
                                         "-",        "+head",    "-", "+backward"};
    for (const char* layer : {"+layer 1 backward", "+layer 0 backward"}) {
      expected.insert(expected.end(), {layer, "-"});
    }
    expected.push_back("-");
    EXPECT_EQ(log, expected) << block;
  }
}

}  // namespace
}  // namespace engine
