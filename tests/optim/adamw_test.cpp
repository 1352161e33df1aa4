// The decision whether a step happens is the device's: what is not finite leaves weights and
// moments as they are, to the bit, and the steps after it go on as if it had not been.
#include "engine/optim/adamw.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/simt/stream.h"
#include "tests/support/devices.h"

namespace engine {
namespace {

using Numbers = std::vector<float>;

Numbers numbers(int64_t count, uint32_t seed) {
  Numbers values;
  for (int64_t i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    values.push_back(static_cast<float>(static_cast<int32_t>(seed)) * 0x1p-31f);
  }
  return values;
}

// Two parameters, of 64 and of 9 values, and their optimizer.
struct Trained {
  Trained(kernels::DeviceType device, const PrecisionPolicy& precision) : runtime(device) {
    parameters.add("matrix", {8, 8}, Initializer::normal(1.0f));
    parameters.add("vector", {9}, Initializer::normal(1.0f));
    parameters.allocate(runtime, precision, ParameterSet::Purpose::training);
    parameters.initialize(runtime, 1);
    optimizer.emplace(runtime, parameters, OptimizerConfig{.weight_decay = 0.1}, 7);
  }
  void set_gradients(uint32_t seed, float of_last) {
    for (const auto& p : parameters) {
      Numbers values = numbers(p->count(), seed++);
      values.back() = of_last;
      runtime.upload(p->grad, values.data());
    }
  }
  void watch(const Numbers& losses) {
    const Tensor tensor = runtime.upload_vector(losses, DType::f32);
    optimizer->watch(tensor);
  }
  AdamW::Outcome good_step(uint32_t seed) {
    set_gradients(seed, 0.5f);
    watch({1.0f, 2.0f});
    return optimizer->update(1.0f, 1e-2);
  }
  // All that a step changes, besides the gradients.
  std::vector<Numbers> state() {
    std::vector<Numbers> all;
    for (const auto& p : parameters) {
      for (const Tensor* tensor : {&p->value, &p->master, &p->m, &p->v}) {
        if (*tensor) all.push_back(runtime.download(*tensor));
      }
    }
    return all;
  }
  void expect_no_gradients() {
    for (const auto& p : parameters) {
      EXPECT_EQ(runtime.download(p->grad), Numbers(static_cast<size_t>(p->count())));
    }
  }

  Runtime runtime;
  ParameterSet parameters;
  std::optional<AdamW> optimizer;
};

class AdamWTest : public ::testing::TestWithParam<kernels::DeviceType> {};
INSTANTIATE_TEST_SUITE_P(Devices, AdamWTest, ::testing::ValuesIn(testing::test_devices()),
                         testing::device_name);

TEST_P(AdamWTest, WhatIsNotFiniteChangesNothing) {
  const PrecisionPolicy bf16 = PrecisionPolicy::bf16();
  for (const PrecisionPolicy& precision : {PrecisionPolicy::fp32(), bf16, bf16.without_masters()}) {
    Trained disturbed(GetParam(), precision), quiet(GetParam(), precision);
    ASSERT_TRUE(disturbed.good_step(1).applied);
    ASSERT_TRUE(quiet.good_step(1).applied);
    const std::vector<Numbers> before = disturbed.state();
    ASSERT_EQ(before, quiet.state());

    const auto expect_stopped = [&](const AdamW::Outcome& outcome, bool norm_is_finite) {
      EXPECT_FALSE(outcome.applied);
      EXPECT_EQ(std::isfinite(outcome.norm.norm), norm_is_finite) << outcome.norm.norm;
      EXPECT_EQ(disturbed.optimizer->steps(), 1);
      EXPECT_EQ(disturbed.state(), before);
      disturbed.expect_no_gradients();
    };
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      for (const float max_norm : {1.0f, 0.0f}) {
        disturbed.set_gradients(2, bad);
        disturbed.watch({1.0f});
        expect_stopped(disturbed.optimizer->update(max_norm, 1e-2), false);
        // A loss alone, of the first micro-batch of two, at the end of many.
        disturbed.set_gradients(2, 0.5f);
        Numbers losses(3000, 1.0f);
        losses.back() = bad;
        disturbed.watch(losses);
        disturbed.watch({1.0f, 0.0f});
        expect_stopped(disturbed.optimizer->update(max_norm, 1e-2), true);
      }
    }
    // Squares whose sum is finite, of a norm that no float holds.
    for (const auto& p : disturbed.parameters) {
      disturbed.runtime.upload(p->grad, Numbers(p->count(), 3e38f).data());
    }
    expect_stopped(disturbed.optimizer->update(1.0f, 1e-2), false);

    ASSERT_TRUE(disturbed.good_step(3).applied);
    ASSERT_TRUE(quiet.good_step(3).applied);
    EXPECT_EQ(disturbed.optimizer->steps(), 2);
    EXPECT_EQ(disturbed.state(), quiet.state());
    EXPECT_NE(disturbed.state(), before);
  }
}

TEST_P(AdamWTest, OneCallIsTheTwoParts) {
  Trained one(GetParam(), PrecisionPolicy::bf16()), two(GetParam(), PrecisionPolicy::bf16());
  for (const uint32_t seed : {1u, 2u, 3u}) {
    const AdamW::Outcome outcome = one.good_step(seed);
    two.set_gradients(seed, 0.5f);
    const AdamW::Norm norm = two.optimizer->measure(1.0f);
    two.optimizer->step(1e-2);
    EXPECT_EQ(outcome.norm.norm, norm.norm);
    EXPECT_EQ(outcome.norm.clip_scale, norm.clip_scale);
    EXPECT_LT(norm.clip_scale, 1.0f);
    EXPECT_EQ(one.state(), two.state());
  }
}

// One wait, which the update is behind: on the software GPU's lazy queue it has not run then, and
// what the host waits for next runs it.
TEST(AdamWOnSimt, TheUpdateIsQueuedBeforeTheWait) {
  Trained t(kernels::DeviceType::simt, PrecisionPolicy::fp32());
  const std::vector<Numbers> before = t.state();
  t.set_gradients(1, 0.5f);
  t.runtime.synchronize();
  std::vector<std::string> ranges;
  kernels::simt::set_range_log(&ranges);
  const int64_t waits = kernels::simt::count_of_waits();
  EXPECT_TRUE(t.optimizer->update(1.0f, 1e-2).applied);
  EXPECT_EQ(kernels::simt::count_of_waits() - waits, 1);
  kernels::simt::set_range_log(nullptr);
  EXPECT_EQ(ranges, (std::vector<std::string>{"+gradient norm", "-", "+optimizer", "-"}));
  EXPECT_NE(t.state(), before);
}

}  // namespace
}  // namespace engine
