// How often the loss reads logits, by the counters of the software GPU: once for the gradient, and
// not at all where only the loss is asked for.
#include <gtest/gtest.h>

#include "kernels/simt/counters.h"
#include "kernels/simt/launch.h"
#include "tests/kernels/support.h"

namespace engine::kernels::testing {
namespace {

ENGINE_KERNEL_TEST_SUITE(CrossEntropyCountsTest);

TEST_P(CrossEntropyCountsTest, LogitsAreReadOnceOrNever) {
  if (!simulated()) GTEST_SKIP() << "the software GPU counts";
  // Lanes in order: the accesses of a warp can be put together only so.
  const simt::Schedule before = simt::current_schedule();
  simt::set_schedule({});
  constexpr int64_t kTokens = 20, kHidden = 64, kClasses = 4000;
  constexpr double kLogits = static_cast<double>(kTokens * kClasses);
  constexpr double kWarps = kTokens * 8;
  Random random(1);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const DeviceArray hidden(stream(), dtype, random.normal(kTokens * kHidden, dtype));
    const DeviceArray weight(stream(), dtype, random.normal(kClasses * kHidden, dtype));
    const DeviceArray targets(stream(), DType::i32, random.integers(kTokens, 0, kClasses - 1));
    const DeviceArray losses(stream(), DType::f32, kTokens), argmax(stream(), DType::i32, kTokens);
    const DeviceArray d_hidden(stream(), dtype, kTokens * kHidden);
    LinearCrossEntropy arguments{.tokens = kTokens,
                                 .hidden_size = kHidden,
                                 .vocab_size = kClasses,
                                 .hidden = hidden.data(),
                                 .weight = weight.data(),
                                 .targets = targets.as<int32_t>(),
                                 .losses = losses.as<float>(),
                                 .argmax = argmax.as<int32_t>(),
                                 .dtype = dtype};
    const DeviceArray workspace(
        stream(), DType::u8, static_cast<int64_t>(ops().linear_cross_entropy_workspace(arguments)));
    arguments.workspace = workspace.data();
    const auto bytes_read = [&] {
      simt::start_counting();
      ops().linear_cross_entropy(stream(), arguments);
      const auto work = simt::stop_counting().at("cross_entropy");
      return 32.0 * static_cast<double>(work.global_read_sectors);
    };
    // Evaluation: the product's parts, 8 bytes for 32 logits, and for each of a row's warps its
    // row, target and count, and the 32 logits among which the largest is: some 300 bytes.
    const Bytes without = losses.bytes();
    EXPECT_LT(bytes_read(), 0.25 * kLogits + 300.0 * kWarps) << name_of(dtype);
    EXPECT_NE(losses.bytes(), without);
    // Training: each logit once more.
    arguments.d_hidden = d_hidden.data();
    const double training = bytes_read();
    EXPECT_GT(training, 4.0 * kLogits) << name_of(dtype);
    EXPECT_LT(training, 4.25 * kLogits + 300.0 * kWarps) << name_of(dtype);
  }
  simt::set_schedule(before);
}

}  // namespace
}  // namespace engine::kernels::testing
