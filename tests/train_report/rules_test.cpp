// Best metric and early stopping, running statistics, FLOPs.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "engine/core/error.h"
#include "engine/train/report/best_tracker.h"
#include "engine/train/report/flops.h"
#include "engine/train/report/trackers.h"

namespace engine {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// The step of the evaluation that stops the run, or 0.
int64_t stops_at(const BestTrackerOptions& options, const std::vector<double>& metrics) {
  BestTracker tracker(options);
  for (size_t i = 0; i < metrics.size(); ++i) {
    // Through JSON every time: a resumed tracker must behave as the one that was saved.
    BestTracker restored(options);
    restored.from_json(nlohmann::json::parse(tracker.to_json().dump()));
    tracker = restored;
    if (tracker.update(static_cast<int64_t>(i) + 1, metrics[i]).should_stop) {
      return static_cast<int64_t>(i) + 1;
    }
  }
  return 0;
}

TEST(BestTracker, BestIsStrictAndNeverNaN) {
  BestTracker tracker({});
  EXPECT_FALSE(tracker.update(1, kNaN).is_best);
  EXPECT_FALSE(tracker.best_metric().has_value());
  EXPECT_TRUE(tracker.update(2, 2.0).is_best);
  EXPECT_FALSE(tracker.update(3, 2.0).is_best);
  EXPECT_FALSE(tracker.update(4, kNaN).is_best);
  EXPECT_TRUE(tracker.update(5, 1.5).is_best);
  EXPECT_FALSE(tracker.update(6, 1.9).is_best);
  EXPECT_EQ(tracker.best_metric(), 1.5);
  EXPECT_EQ(tracker.best_step(), 5);
  EXPECT_FALSE(tracker.should_stop());  // patience 0
}

TEST(BestTracker, EarlyStopping) {
  BestTrackerOptions loss;
  loss.patience = 2;
  EXPECT_EQ(stops_at(loss, {3, 2, 2.5, 1.9, 2.0, 2.1}), 6);
  EXPECT_EQ(stops_at(loss, {3, 2, 1, 0.5, 0.4}), 0);
  EXPECT_EQ(stops_at(loss, {kNaN, kNaN}), 2);
  EXPECT_EQ(stops_at(loss, {3, kNaN, 2, kNaN, kNaN}), 5);
  EXPECT_EQ(stops_at(loss, {std::numeric_limits<double>::infinity(), 5, 5, 5}), 4);
  BestTrackerOptions accuracy = loss;
  accuracy.greater_is_better = true;
  EXPECT_EQ(stops_at(accuracy, {0.1, 0.2, 0.2, 0.15}), 4);
}

TEST(BestTracker, SmallImprovementsAddUp) {
  BestTrackerOptions options;
  options.patience = 3;
  options.threshold = 0.125;
  // Each step gains 0.0625: Hugging Face stops at the fourth, here every third resets the counter.
  std::vector<double> creeping;
  for (int i = 0; i < 20; ++i) creeping.push_back(4.0 - 0.0625 * i);
  EXPECT_EQ(stops_at(options, creeping), 0);
  // Too slow even so: 0.03125 · 3 < 0.125.
  std::vector<double> flat;
  for (int i = 0; i < 20; ++i) flat.push_back(4.0 - 0.03125 * i);
  EXPECT_EQ(stops_at(options, flat), 4);
  // Exactly the threshold is not more than the threshold.
  EXPECT_EQ(stops_at({false, 1, 0.5}, {2.0, 1.5}), 2);
  BestTracker tracker(options);
  tracker.update(1, 2.0);
  EXPECT_TRUE(tracker.update(2, 1.99).is_best);  // best moves below the threshold
  EXPECT_EQ(tracker.evaluations_without_reset(), 1);
}

TEST(BestTracker, Direction) {
  EXPECT_FALSE(greater_is_better_by_default("loss"));
  EXPECT_FALSE(greater_is_better_by_default("eval_news_loss"));
  EXPECT_FALSE(greater_is_better_by_default("perplexity"));
  EXPECT_TRUE(greater_is_better_by_default("accuracy"));
  EXPECT_TRUE(greater_is_better_by_default("loss_free"));
}

TEST(Trackers, ExponentialAverage) {
  ExponentialAverage average(0.5);
  EXPECT_FALSE(average.value().has_value());
  average.add(kNaN);
  EXPECT_FALSE(average.value().has_value());
  average.add(4);
  EXPECT_EQ(average.value(), 4.0);
  average.add(1);
  EXPECT_EQ(average.value(), 2.0);  // (4/4 + 1/2) / (3/4)
  average.add(std::numeric_limits<double>::infinity());
  EXPECT_EQ(average.value(), 2.0);
}

TEST(Trackers, ZScore) {
  ZScore score(4, 2);
  EXPECT_FALSE(score.add(1).has_value());
  EXPECT_FALSE(score.add(3).has_value());
  EXPECT_EQ(score.add(5), 3.0);  // mean 2, deviation 1
  EXPECT_EQ(score.add(kNaN), std::numeric_limits<double>::infinity());
  ZScore flat(8, 2);
  flat.add(0.1);
  flat.add(0.1);
  EXPECT_EQ(flat.add(0.1), 0.0);
  EXPECT_EQ(flat.add(0.2), std::numeric_limits<double>::infinity());
}

TEST(Trackers, StatesAreExact) {
  ExponentialAverage average;
  ZScore score(16, 4);
  RecentShare share(10);
  PercentileSample sample(8);
  for (int i = 0; i < 50; ++i) {
    const double x = std::sin(i * 1.7) * 3;
    average.add(x);
    score.add(x);
    share.add(x > 1);
    sample.add(x);
  }
  const auto copy = [](const auto& tracker, auto fresh) {
    fresh.from_json(nlohmann::json::parse(tracker.to_json().dump()));
    return fresh;
  };
  ExponentialAverage average2 = copy(average, ExponentialAverage());
  ZScore score2 = copy(score, ZScore(16, 4));
  RecentShare share2 = copy(share, RecentShare(10));
  PercentileSample sample2 = copy(sample, PercentileSample(8));
  for (int i = 50; i < 80; ++i) {
    const double x = std::sin(i * 1.7) * 3;
    average.add(x);
    average2.add(x);
    EXPECT_EQ(average.value(), average2.value());
    EXPECT_EQ(score.add(x), score2.add(x));
    share.add(x > 1);
    share2.add(x > 1);
    EXPECT_EQ(share.share(), share2.share());
    sample.add(x);
    sample2.add(x);
    EXPECT_EQ(sample.percentile(50), sample2.percentile(50));
  }
}

TEST(Trackers, RecentShareForgets) {
  RecentShare share(4);
  EXPECT_EQ(share.share(), 0.0);
  for (const bool value : {true, true, true, false, false, false}) share.add(value);
  EXPECT_EQ(share.share(), 0.25);
}

TEST(Trackers, PercentilesInBoundedMemory) {
  PercentileSample small;
  EXPECT_FALSE(small.percentile(50).has_value());
  for (int i = 1; i <= 100; ++i) small.add(i);
  EXPECT_EQ(small.percentile(50), 50.0);
  EXPECT_EQ(small.percentile(5), 5.0);
  EXPECT_EQ(small.percentile(0), 1.0);
  EXPECT_EQ(small.percentile(100), 100.0);
  PercentileSample large(64);
  for (int i = 0; i < 100000; ++i) large.add(i);
  EXPECT_LE(large.to_json().at("values").size(), 64u);
  // Evenly spaced: at least 32 of 100000 values, so within one gap.
  EXPECT_NEAR(*large.percentile(50), 50000, 100000.0 / 32);
}

TEST(Trackers, TimeLeft) {
  TimeLeft left(3);
  EXPECT_FALSE(left.seconds(10).has_value());
  left.add_step(1);
  left.add_step(60);  // the odd one
  left.add_step(1);
  EXPECT_EQ(left.seconds(10), 10.0);
  left.add_other(31);  // half as long as the steps together
  EXPECT_EQ(left.seconds(10), 15.0);
  EXPECT_EQ(left.seconds(-1), 0.0);
}

// GFLOP per token as published with four decimals.
constexpr double kPrinted = 0.5e-4;

FlopsShape shape(int64_t params, int64_t layers, int64_t width) {
  FlopsShape result;
  result.matmul_params = params;
  result.num_layers = layers;
  result.attention_width = width;
  return result;
}

TEST(Flops, PublishedTable) {
  struct Row {
    const char* name;
    FlopsShape shape;
    int64_t length;
    double titan, llmc;
  };
  const Row rows[] = {
      {"GPT-2 124M", shape(124439808, 12, 768), 1024, 0.8599, 0.8033},
      {"GPT-2 XL", shape(1557611200, 48, 1600), 1024, 10.2894, 9.8175},
      {"Llama-3.2-1B", shape(1235814400, 16, 2048), 2048, 8.2202, 7.8175},
      {"Llama-3.2-3B", shape(3212749824, 28, 3072), 2048, 21.3904, 20.3335},
      // Untied: without the input table of 128256 · 4096.
      {"Llama-3.1-8B", shape(8030261248 - 128256 * 4096, 32, 4096), 2048, 48.2508, 46.6402},
      {"Qwen2.5-1.5B", shape(1543714304, 28, 1536), 2048, 10.3193, 9.7908},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    EXPECT_NEAR(flops_per_token(row.shape, row.length, FlopsConvention::titan) / 1e9, row.titan,
                kPrinted);
    EXPECT_NEAR(flops_per_token(row.shape, row.length, FlopsConvention::palm) / 1e9, row.titan,
                kPrinted);
    EXPECT_NEAR(flops_per_token(row.shape, row.length, FlopsConvention::llmc) / 1e9, row.llmc,
                kPrinted);
    EXPECT_NEAR(flops_per_token(row.shape, row.length, FlopsConvention::exact),
                flops_per_token(row.shape, row.length, FlopsConvention::llmc),
                6.0 * static_cast<double>(row.shape.num_layers * row.shape.attention_width));
  }
}

TEST(Flops, SlidingWindowsCountWhatIsComputed) {
  // Gemma-3-1b: every sixth of 26 layers is global, the others see 512 tokens.
  FlopsShape gemma = shape(0, 26, 1024);
  EXPECT_NEAR(flops_per_token(gemma, 1024, FlopsConvention::titan) / 1e9, 0.3272, kPrinted);
  for (int layer = 0; layer < 26; ++layer) {
    gemma.sliding_windows.push_back(layer % 6 == 5 ? 0 : 512);
  }
  EXPECT_NEAR(flops_per_token(gemma, 1024, FlopsConvention::exact) / 1e9, 0.1291, kPrinted);
  // Gemma-3-4b: 34 layers, windows of 1024.
  FlopsShape larger = shape(0, 34, 2048);
  for (int layer = 0; layer < 34; ++layer) {
    larger.sliding_windows.push_back(layer % 6 == 5 ? 0 : 1024);
  }
  EXPECT_NEAR(flops_per_token(larger, 1024, FlopsConvention::exact) / 1e9, 0.4282, kPrinted);
  EXPECT_NEAR(flops_per_token(larger, 8192, FlopsConvention::exact) / 1e9, 1.1876, kPrinted);
}

TEST(Flops, PackedDocumentsEqualBruteForce) {
  FlopsShape small = shape(1000, 2, 8);
  small.sliding_windows = {0, 3};
  const std::vector<int64_t> lengths = {5, 1, 2, 9};
  double pairs = 0;
  for (const int64_t length : lengths) {
    for (int64_t query = 0; query < length; ++query) {
      pairs +=
          static_cast<double>(query + 1) + static_cast<double>(std::min<int64_t>(query + 1, 3));
    }
  }
  EXPECT_EQ(step_flops(small, lengths), 6.0 * 1000 * 17 + 12.0 * 8 * pairs);
  const std::vector<int64_t> row = {64};
  EXPECT_NEAR(step_flops(small, row), 64 * flops_per_token(small, 64, FlopsConvention::exact),
              1e-6);
}

TEST(Flops, EncoderDecoder) {
  EncoderDecoderFlopsShape t5;
  t5.source_params = 100 + 20;  // an encoder of 100; keys and values of cross-attention
  t5.target_params = 130 + 64;  // the rest of a decoder of 150, and the head
  t5.encoder_layers = 2;
  t5.decoder_layers = 3;
  t5.attention_width = 4;
  // Source 5, target 3: encoder pairs 2·25, decoder pairs 3·(6 + 15).
  EXPECT_EQ(example_flops(t5, 5, 3), 6.0 * (5 * 120 + 3 * (130 + 64)) + 12.0 * 4 * (50 + 63));
}

TEST(Flops, Utilisation) {
  // Published: a H200 at 989.4 TF runs GPT-2 124M at 1.2317 M tok/s at best (llm.c, T = 1024).
  const double per_token = flops_per_token(shape(124439808, 12, 768), 1024, FlopsConvention::llmc);
  EXPECT_NEAR(utilisation(per_token * 1.2317e6, 1.0, 989.4e12).mfu, 1.0, 1e-4);
  const Utilisation half = utilisation(50, 1, 100, 1.0);
  EXPECT_EQ(half.mfu, 0.5);
  EXPECT_DOUBLE_EQ(half.hfu, 0.5 * 4 / 3);
  EXPECT_EQ(peak_bf16_flops("NVIDIA H200"), 989e12);
  EXPECT_EQ(peak_bf16_flops("NVIDIA H100 PCIe"), 756e12);
  EXPECT_EQ(peak_bf16_flops("NVIDIA H100 80GB HBM3"), 989e12);
  EXPECT_EQ(peak_bf16_flops("NVIDIA A100-SXM4-80GB"), 312e12);
  EXPECT_FALSE(peak_bf16_flops("AMD EPYC").has_value());
}

TEST(Flops, ConventionNames) {
  for (const char* name : {"palm", "titan", "llmc", "exact"}) {
    EXPECT_EQ(flops_convention_name(parse_flops_convention(name)), name);
  }
  EXPECT_THROW(parse_flops_convention("torchtitan"), Error);
}

}  // namespace
}  // namespace engine
