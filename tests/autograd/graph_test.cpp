// The tape on whole models: recompute with dropout gives the same bits, memory falls in the order
// promised and is all given back.
#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "engine/step/memory_plan.h"
#include "models/registry.h"
#include "tests/support/devices.h"

namespace engine {
namespace {

nlohmann::ordered_json config(const std::string& family) {
  if (family == "gpt2") {
    return {{"model_type", "gpt2"}, {"n_embd", 32},      {"n_layer", 4},
            {"n_head", 4},          {"n_positions", 64}, {"vocab_size", 50},
            {"resid_pdrop", 0.2},   {"embd_pdrop", 0.2}, {"attn_pdrop", 0.2}};
  }
  if (family == "t5" || family == "t5_gated") {
    return {{"model_type", "t5"},
            {"d_model", 32},
            {"d_ff", 48},
            {"d_kv", 8},
            {"num_heads", 4},
            {"num_layers", 2},
            {"vocab_size", 50},
            {"dropout_rate", 0.2},
            {"feed_forward_proj", family == "t5" ? "relu" : "gated-gelu"}};
  }
  if (family == "roberta") {
    return {{"model_type", "roberta"},       {"hidden_size", 32},
            {"intermediate_size", 48},       {"num_hidden_layers", 4},
            {"num_attention_heads", 4},      {"vocab_size", 50},
            {"max_position_embeddings", 64}, {"type_vocab_size", 1},
            {"hidden_dropout_prob", 0.2},    {"attention_probs_dropout_prob", 0.2}};
  }
  // Keys that a family does not know do no harm: the windows and heads of 8 are Gemma's.
  return {{"model_type", family},     {"hidden_size", 32},
          {"sliding_window", 5},      {"head_dim", 8},
          {"intermediate_size", 48},  {"num_hidden_layers", 4},
          {"num_attention_heads", 4}, {"num_key_value_heads", 2},
          {"vocab_size", 50},         {"max_position_embeddings", 64},
          {"attention_dropout", 0.2}};
}

std::unique_ptr<Model> model_of(const std::string& family) {
  return make_model(config(family), "test",
                    family == "roberta" ? Task::sequence_classification : Task::causal_lm);
}

Batch batch_of(const std::string& family, int64_t tokens, int64_t sequences, int64_t longest) {
  const bool pairs = family.starts_with("t5");
  Batch batch = example_batch({.tokens = tokens,
                               .sequences = sequences,
                               .longest = longest,
                               .source_tokens = pairs ? tokens : 0,
                               .source_longest = pairs ? longest : 0});
  for (size_t i = 0; i < batch.input_ids.size(); ++i) {
    batch.input_ids[i] = static_cast<int32_t>(i * 7 % 50);
    batch.targets[i] = static_cast<int32_t>(i * 11 % 50);
  }
  for (size_t i = 0; i < batch.source.input_ids.size(); ++i) {
    batch.source.input_ids[i] = static_cast<int32_t>(i * 13 % 50);
  }
  for (size_t i = 0; i < batch.labels.size(); ++i) batch.labels[i] = static_cast<int32_t>(i % 2);
  return batch;
}

class Recompute : public ::testing::TestWithParam<std::tuple<kernels::DeviceType, const char*>> {
 protected:
  kernels::DeviceType device() const { return std::get<0>(GetParam()); }
  std::string family() const { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Models, Recompute,
                         ::testing::Combine(::testing::ValuesIn(testing::test_devices()),
                                            ::testing::Values("gpt2", "llama", "gemma3_text", "t5",
                                                              "t5_gated", "roberta")),
                         [](const auto& info) {
                           return std::string(kernels::name_of(std::get<0>(info.param))) + "_" +
                                  std::get<1>(info.param);
                         });

TEST_P(Recompute, SameBitsWithDropoutAndLessMemory) {
  const Batch batch = batch_of(family(), 96, 4, 32);
  for (const PrecisionPolicy precision :
       {PrecisionPolicy::fp32(), PrecisionPolicy::bf16_residual_fp32()}) {
    std::vector<std::vector<float>> first;
    std::vector<float> first_losses;
    std::vector<size_t> peaks;
    for (const RecomputePolicy recompute :
         {RecomputePolicy::none, RecomputePolicy::norms, RecomputePolicy::block}) {
      Runtime runtime(device());
      runtime.memory().reserve_arena(size_t{16} << 20);
      const auto model = model_of(family());
      model->parameters().allocate(runtime, precision, ParameterSet::Purpose::training);
      model->parameters().initialize(runtime, 1);
      model->prepare(runtime, 64);
      runtime.memory().reset_peak();
      const size_t before = runtime.memory().peak_bytes();
      {
        const BatchLoss loss = run_batch(
            runtime, *model, batch,
            {.graph = {.recompute = recompute, .dropout_seed = 99, .precision = precision}});
        const std::vector<float> losses = runtime.download(loss.losses);
        if (first_losses.empty()) first_losses = losses;
        EXPECT_EQ(losses, first_losses);
      }
      peaks.push_back(runtime.memory().peak_bytes());
      EXPECT_EQ(runtime.memory().unplanned_peak(), 0u);
      // Nothing of the step is alive: the arena is empty again.
      runtime.memory().reset_peak();
      EXPECT_EQ(runtime.memory().arena_peak(), 0u);
      EXPECT_EQ(runtime.memory().peak_bytes(), before);

      std::vector<std::vector<float>> gradients;
      for (const auto& p : model->parameters()) gradients.push_back(runtime.download(p->grad));
      if (first.empty()) first = gradients;
      for (size_t i = 0; i < first.size(); ++i) {
        EXPECT_EQ(
            std::memcmp(first[i].data(), gradients[i].data(), first[i].size() * sizeof(float)), 0)
            << model->parameters()[i].name();
      }
    }
    EXPECT_LT(peaks[1], peaks[0]) << "norms against none";
    EXPECT_LT(peaks[2], peaks[1]) << "block against norms";
  }
}

TEST_P(Recompute, DropoutDependsOnTheSeedOfTheMicroBatch) {
  const Batch batch = batch_of(family(), 40, 2, 20);
  Runtime runtime(device());
  const auto model = model_of(family());
  const PrecisionPolicy precision;
  model->parameters().allocate(runtime, precision, ParameterSet::Purpose::inference);
  model->parameters().initialize(runtime, 1);
  model->prepare(runtime, 64);
  const auto losses = [&](uint64_t seed, bool training) {
    return runtime.download(
        run_batch(runtime, *model, batch,
                  {.graph = {.record = false, .training = training, .dropout_seed = seed}})
            .losses);
  };
  EXPECT_EQ(losses(1, true), losses(1, true));
  EXPECT_NE(losses(1, true), losses(2, true));
  EXPECT_NE(losses(1, true), losses(1, false));
  EXPECT_EQ(losses(1, false), losses(2, false));
}

// The dry run of the meta device makes the same allocations as the real one.
TEST_P(Recompute, MetaPlanIsTheRealPeak) {
  const Batch batch = batch_of(family(), 96, 4, 32);
  for (const RecomputePolicy recompute :
       {RecomputePolicy::none, RecomputePolicy::norms, RecomputePolicy::block}) {
    size_t arena[2], total[2];
    for (const bool meta : {false, true}) {
      Runtime runtime(
          meta ? kernels::Stream{.device = kernels::DeviceType::meta, .planned = device()}
               : kernels::Stream{.device = device()});
      runtime.memory().reserve_arena(size_t{16} << 20);
      const auto model = model_of(family());
      model->parameters().allocate(runtime, {}, ParameterSet::Purpose::training);
      if (!meta) model->parameters().initialize(runtime, 1);
      model->prepare(runtime, 64);
      run_batch(runtime, *model, batch, {.graph = {.recompute = recompute}});
      arena[meta] = runtime.memory().arena_peak();
      total[meta] = runtime.memory().peak_bytes();
    }
    EXPECT_EQ(arena[0], arena[1]);
    EXPECT_EQ(total[0], total[1]);
  }
}

}  // namespace
}  // namespace engine
