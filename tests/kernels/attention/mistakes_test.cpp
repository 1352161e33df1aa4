// Tests of the tests: kernels with a mistake must not pass. What a kernel with a mistake computes
// is here what the right kernel computes for a problem that differs from its reference by just
// that.
#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include "tests/kernels/attention/harness.h"

namespace engine::kernels::testing {
namespace {

ENGINE_KERNEL_TEST_SUITE(AttentionMistakesTest);

// How many failures `body` reports. They do not count for the test that asks.
int failures_in(const std::function<void()>& body) {
  ::testing::TestPartResultArray results;
  {
    const ::testing::ScopedFakeTestPartResultReporter reporter(
        ::testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &results);
    body();
  }
  int failures = 0;
  for (int i = 0; i < results.size(); ++i) failures += results.GetTestPartResult(i).failed();
  return failures;
}

AttentionProblem problem_with_window() {
  return with_scale({.query_lengths = {150, 1, 65},
                     .key_lengths = {150, 70, 65},
                     .keys_used = {150, 70, 65},
                     .num_heads = 4,
                     .num_kv_heads = 2,
                     .head_dim = 16,
                     .window = 64});
}

struct Mistake {
  const char* what;
  void (*make)(AttentionProblem&);
};
constexpr Mistake kMistakes[] = {
    {"one key too few at the window's end", [](AttentionProblem& p) { p.window = 63; }},
    {"one key too many", [](AttentionProblem& p) { p.window = 65; }},
    {"no window", [](AttentionProblem& p) { p.window = 0; }},
    {"no causal mask", [](AttentionProblem& p) { p.causal = false; }},
    // positions, and with them the diagonal, off by one; the last key is not read
    {"the diagonal off by one", [](AttentionProblem& p) { --p.keys_used[2]; }},
    {"a scale of head_dim + 1", [](AttentionProblem& p) { p.scale = 1.0 / std::sqrt(17.0); }},
};

TEST_P(AttentionMistakesTest, AreFound) {
  for (DType dtype : kFloats) {
    const AttentionProblem right = problem_with_window();
    Random random(31);
    const AttentionInputs inputs = random_inputs(right, dtype, random);
    const Values d_out = random.normal(right.query_values(), dtype);
    const auto exact = reference_attention<double>(right, inputs, no_rounding());
    const auto twin = reference_attention<float>(right, inputs, rounding_to(dtype));
    const auto d_exact =
        reference_attention_backward<double>(right, inputs, exact, d_out, no_rounding());
    const auto d_twin =
        reference_attention_backward<float>(right, inputs, twin, d_out, rounding_to(dtype));
    // Failures of out, lse and the gradients of q, k and v.
    const auto failures_of = [&](const AttentionProblem& problem) {
      AttentionOnDevice device(stream(), ops(), problem, inputs, dtype);
      const AttentionOutputs found = device.forward();
      const AttentionGradients gradients = device.backward(d_out);
      return std::array<int, 5>{
          failures_in([&] { expect_close(found.out, dtype, exact.out, twin.out, "out"); }),
          failures_in([&] { expect_close_lse(found.lse, exact.lse, twin.lse); }),
          failures_in([&] { expect_close(gradients.d_q, dtype, d_exact.d_q, d_twin.d_q, "d_q"); }),
          failures_in([&] { expect_close(gradients.d_k, dtype, d_exact.d_k, d_twin.d_k, "d_k"); }),
          failures_in([&] { expect_close(gradients.d_v, dtype, d_exact.d_v, d_twin.d_v, "d_v"); })};
    };
    EXPECT_EQ(failures_of(right), (std::array<int, 5>{})) << name_of(dtype);
    for (const Mistake& mistake : kMistakes) {
      SCOPED_TRACE(std::string(name_of(dtype)) + ", " + mistake.what);
      AttentionProblem wrong = right;
      mistake.make(wrong);
      for (int failures : failures_of(wrong)) EXPECT_GT(failures, 0);
    }
  }
}

// An element that nobody wrote, a write past the end, a sum with a term too many, two bits that
// differ between repetitions.
TEST_P(AttentionMistakesTest, OfTheHarnessAreFound) {
  const Values ones(100, 1.0);
  DeviceArray unwritten(stream(), DType::bf16, 100);
  EXPECT_GT(failures_in([&] { expect_close(unwritten, ones, "out"); }), 0);
  EXPECT_EQ(failures_in([&] {
              DeviceArray right(stream(), DType::bf16, ones);
              expect_close(right, ones, "out");
            }),
            0);
  for (int64_t at : {int64_t{-1}, int64_t{100}}) {
    EXPECT_GT(failures_in([&] {
                DeviceArray array(stream(), DType::bf16, ones);
                const BFloat16 one(1.0f);
                ops().copy_to_device(stream(), array.as<BFloat16>() + at, &one, sizeof one);
              }),
              0)
        << at;
  }
  Values off = ones;
  off[57] = 1.0 + 3 * 0x1p-8;  // bf16: 1.5 ulp beyond what the twin rule allows
  EXPECT_GT(failures_in([&] {
              DeviceArray array(stream(), DType::bf16, rounded(DType::bf16, off));
              expect_close(array, ones, "out");
            }),
            0);
  int calls = 0;
  EXPECT_GT(failures_in([&] {
              expect_repeatable(stream(), [&] { return Bytes(4, std::byte(++calls == 3)); });
            }),
            0);
}

}  // namespace
}  // namespace engine::kernels::testing
