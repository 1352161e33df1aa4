// What `engine bench` measures with: the statistics, the made-up batch, the step and the
// operations.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/core/error.h"
#include "engine/profile/bench_models.h"
#include "engine/profile/kernel_benchmark.h"
#include "engine/profile/step_benchmark.h"
#include "engine/train/report/flops.h"
#include "models/registry.h"

namespace engine {
namespace {

ModelFactory small_model(const std::string& family) {
  nlohmann::ordered_json config = find_bench_model(family).config();
  if (family == "gpt2-124m") {
    config.update({{"vocab_size", 100}, {"n_embd", 32}, {"n_layer", 2}, {"n_head", 2}});
  } else {
    config.update({{"vocab_size", 100},
                   {"hidden_size", 32},
                   {"intermediate_size", 48},
                   {"num_hidden_layers", 2},
                   {"num_attention_heads", 4},
                   {"num_key_value_heads", 2}});
  }
  return [config] { return make_model(config, "test"); };
}

TEST(Timing, MedianAndMinimum) {
  EXPECT_EQ(timing_of({3, 1, 2}).median, 2);
  EXPECT_EQ(timing_of({4, 1, 2, 3}).median, 2.5);
  EXPECT_EQ(timing_of({3, 1, 2}).minimum, 1);
  EXPECT_EQ(timing_of({5}).runs, 1);
  EXPECT_THROW(timing_of({}), std::logic_error);
}

TEST(Timing, RepeatsAsOftenAsAsked) {
  int calls = 0;
  const Timing timing =
      time_repeated([&] { ++calls; }, {.min_runs = 3, .max_runs = 7, .min_seconds = 1e9});
  EXPECT_EQ(timing.runs, 7);
  EXPECT_EQ(calls, 8);  // one to warm up
}

TEST(RandomBatch, TargetsAreTheNextTokens) {
  const Batch batch = random_batch(2, 3, 50, 1);
  EXPECT_EQ(batch.cu_seqlens, (std::vector<int32_t>{0, 3, 6}));
  EXPECT_EQ(batch.positions, (std::vector<int32_t>{0, 1, 2, 0, 1, 2}));
  EXPECT_EQ(batch.num_targets, 4);
  for (const int end : {2, 5}) {
    EXPECT_EQ(batch.targets[end], kernels::kIgnoreIndex);
    EXPECT_EQ(batch.targets[end - 1], batch.input_ids[end]);
    EXPECT_EQ(batch.targets[end - 2], batch.input_ids[end - 1]);
  }
  for (const int32_t id : batch.input_ids) {
    EXPECT_GE(id, 0);
    EXPECT_LT(id, 50);
  }
  EXPECT_NE(batch.input_ids, random_batch(2, 3, 50, 2).input_ids);
}

TEST(BenchModels, SizesAreThoseOfTheirNames) {
  // GPT-2 small: 124 439 808 parameters, as Hugging Face counts them.
  EXPECT_EQ(make_model(find_bench_model("gpt2-124m").config(), "")->parameters().count(),
            124439808);
  // two tables of 32000 x 512, 8 layers of 4 · 512² + 3 · 512 · 1376 + 2 · 512, one norm
  EXPECT_EQ(make_model(find_bench_model("llama-60m").config(), "")->parameters().count(),
            2 * 32000 * 512 + 8 * (4 * 512 * 512 + 3 * 512 * 1376 + 2 * 512) + 512);
  for (const auto& [name, parameters] : {std::pair{"llama-3.2-1b", 1235814400l},
                                         {"llama-3.2-3b", 3212749824l},
                                         {"qwen2.5-1.5b", 1543714304l},
                                         {"gemma-3-1b", 999885952l},
                                         {"t5-small", 60506624l}}) {
    EXPECT_EQ(make_model(find_bench_model(name).config(), "")->parameters().count(), parameters)
        << name;
  }
  EXPECT_THROW(find_bench_model("no/such/model"), Error);
}

class Step : public testing::TestWithParam<std::tuple<const char*, bool>> {};

TEST_P(Step, IsTheTrainersAndKeepsItsPlan) {
  const auto [family, bf16] = GetParam();
  const StepBenchmark bench =
      benchmark_step({.make_model = small_model(family),
                      .precision = bf16 ? PrecisionPolicy::bf16() : PrecisionPolicy::fp32(),
                      .batch = 2,
                      .length = 16,
                      .steps = 2});
  EXPECT_EQ(bench.tokens, 32);
  ASSERT_EQ(bench.steps.size(), 2u);
  EXPECT_NEAR(bench.first_loss, std::log(100.0), 0.2);  // weights of 0.02: almost uniform
  // What was planned is what was used, to the byte.
  EXPECT_EQ(bench.arena_peak, bench.plan.arena);
  EXPECT_EQ(bench.unplanned_peak, 0u);
  EXPECT_GE(bench.resident_peak, bench.resident_before);
  // attention: 12 · layers · width · (T + 1) / 2 per token, exact; T without the discount
  EXPECT_NEAR(bench.flops, 32.0 * (6.0 * bench.matmul_params + 12.0 * 2 * 32 * 17 / 2), 1);
  EXPECT_NEAR(bench.flops_palm, 32.0 * (6.0 * bench.matmul_params + 12.0 * 2 * 32 * 16), 1);
  for (const StepTimes& t : bench.steps) {
    const double parts = t.data + t.forward + t.head + t.backward + t.norm + t.adamw;
    EXPECT_GT(t.total, 0);
    EXPECT_LE(parts, t.total * (1 + 1e-6));
  }
}

// T5: as many tokens of source as of target, and every one of the target predicted.
TEST(StepOfPairs, IsTheTrainersAndKeepsItsPlan) {
  nlohmann::ordered_json config = find_bench_model("t5-small").config();
  config.update({{"vocab_size", 100},
                 {"d_model", 32},
                 {"d_kv", 8},
                 {"d_ff", 48},
                 {"num_layers", 2},
                 {"num_decoder_layers", 3},
                 {"num_heads", 4}});
  const ModelFactory make = [&] { return make_model(config, "test"); };
  const Batch pairs = random_pairs(2, 16, make()->info(), 1);
  EXPECT_EQ(pairs.num_targets, 32);
  EXPECT_EQ(pairs.source.input_ids.size(), 32u);
  EXPECT_EQ(pairs.input_ids[0], 0);
  EXPECT_EQ(pairs.input_ids[1], pairs.targets[0]);
  for (const PrecisionPolicy& precision : {PrecisionPolicy::fp32(), PrecisionPolicy::bf16()}) {
    const StepBenchmark bench = benchmark_step(
        {.make_model = make, .precision = precision, .batch = 2, .length = 16, .steps = 2});
    EXPECT_EQ(bench.tokens, 64);
    EXPECT_EQ(bench.arena_peak, bench.plan.arena);
    EXPECT_EQ(bench.unplanned_peak, 0u);
    // Hidden states of size 1 times 1/sqrt(32), with a table of size 1: logits of variance 1.
    EXPECT_NEAR(bench.first_loss, std::log(100.0) + 0.5, 0.5);
    // Matrices: 4 of 32 x 32 in self-attention, queries and output of cross-attention of a token
    // of the target, keys and values of one of the source; 2 of 32 x 48; the head.
    const double square = 32 * 32, feed_forward = 2 * 32 * 48;
    const double source = 2 * (4 * square + feed_forward) + 3 * 2 * square;
    const double target = 3 * (6 * square + feed_forward) + 100 * 32;
    const double attention = 12 * 32 * (2 * 16 * 16 + 3 * (16 * 17 / 2 + 16 * 16));
    EXPECT_NEAR(bench.flops, 2 * (6 * 16 * (source + target) + attention), 1);
    EXPECT_NEAR(bench.flops_palm - bench.flops, 2.0 * 12 * 32 * 3 * (16 * 15 / 2), 1);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Step,
                         testing::Combine(testing::Values("gpt2-124m", "llama-60m"),
                                          testing::Bool()));

TEST(GraphComparison, ReplaysWhereTheDeviceRecords) {
  for (const auto device : {kernels::DeviceType::simt, kernels::DeviceType::cpu}) {
    const StepBenchmark bench = benchmark_step({.make_model = small_model("llama-60m"),
                                                .device = {.device = device},
                                                .precision = PrecisionPolicy::bf16(),
                                                .batch = 2,
                                                .length = 8,
                                                .warmup = 0,
                                                .steps = 2,
                                                .compare_graphs = true});
    EXPECT_EQ(bench.steps.size(), 2u);
    EXPECT_EQ(bench.arena_peak, bench.plan.arena);
    EXPECT_EQ(bench.unplanned_peak, 0u);
    ASSERT_EQ(bench.graphs.has_value(), device == kernels::DeviceType::simt);
    if (!bench.graphs) continue;
    EXPECT_EQ(bench.graphs->called.size(), 2u);
    EXPECT_EQ(bench.graphs->replayed.size(), 2u);
    EXPECT_EQ(bench.graphs->replays, 2);
  }
}

class Kernels : public testing::TestWithParam<std::tuple<const char*, bool>> {};

TEST_P(Kernels, EveryOperationRunsAndHasAFloor) {
  const auto [family, bf16] = GetParam();
  const std::unique_ptr<Model> model = small_model(family)();
  const KernelShapes shapes = kernel_shapes(*model, family, 2, 16);
  const DType dtype = bf16 ? DType::bf16 : DType::f32;
  const std::vector<KernelCase> all = kernel_cases({}, shapes, dtype, "");
  size_t selected = 0;
  for (const std::string& op : kernel_operations()) {
    selected += kernel_cases({}, shapes, dtype, op).size();
  }
  EXPECT_EQ(selected, all.size());  // --op offers every operation, each once
  double matmul_flops = 0;
  for (const KernelCase& one : all) {
    SCOPED_TRACE(one.op + " " + one.variant);
    const KernelResult result =
        benchmark_kernel(one, {.flops = 1e12, .bytes = 1e10}, {.min_runs = 1, .min_seconds = 0});
    EXPECT_GT(result.seconds.minimum, 0);
    EXPECT_GT(result.floor_seconds, 0);
    // The fused products are the same products again, with something done to their results.
    const bool plain =
        one.variant.ends_with(" Y") || one.variant.ends_with(" dX") || one.variant.ends_with(" dW");
    if (one.op == "matmul" && plain) matmul_flops += one.flops;
  }
  // The products of one layer and the head, three each, are the 6 N of the step.
  const FlopsShape one_layer{.matmul_params =
                                 (model->matmul_parameters() - 100 * 32) / 2 + 100 * 32};
  EXPECT_NEAR(matmul_flops, 32 * flops_per_token(one_layer, 16, FlopsConvention::exact), 1);
}

INSTANTIATE_TEST_SUITE_P(Families, Kernels,
                         testing::Combine(testing::Values("gpt2-124m", "llama-60m"),
                                          testing::Bool()));

}  // namespace
}  // namespace engine
