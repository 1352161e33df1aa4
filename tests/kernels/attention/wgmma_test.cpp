// Hopper's forward, beside that of mma.sync: each problem goes through both. Lengths, windows and
// heads around its tiles of 128 queries (64 a warpgroup) and 128 keys.
#include <gtest/gtest.h>

#include "kernels/simt/counters.h"
#include "kernels/simt/launch.h"
#include "tests/kernels/attention/harness.h"

namespace engine::kernels::testing {
namespace {

class AttentionWgmmaTest : public KernelTest {
 protected:
  void check(AttentionProblem problem, uint64_t seed = 41, Layout layout = Layout::kAligned) {
    SCOPED_TRACE("head_dim " + std::to_string(problem.head_dim) +
                 (problem.causal ? " causal" : " full") + " window " +
                 std::to_string(problem.window) + ", first of " +
                 std::to_string(problem.query_lengths.size()) +
                 " sequences: " + std::to_string(problem.query_lengths[0]) + " x " +
                 std::to_string(problem.key_lengths[0]));
    expect_forward_matches_reference(stream(), ops(), with_scale(std::move(problem)), DType::bf16,
                                     seed, layout);
  }
};

std::vector<DeviceType> gpus() {
  std::vector<DeviceType> gpus;
  for (DeviceType device : test_devices()) {
    if (device == DeviceType::cpu) continue;
    if (operations(device).device_info({.device = device}).compute_capability == 90) {
      gpus.push_back(device);
    }
  }
  return gpus;
}
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(AttentionWgmmaTest);
INSTANTIATE_TEST_SUITE_P(Devices, AttentionWgmmaTest, ::testing::ValuesIn(gpus()),
                         [](const auto& device) { return name_of(device.param); });

// 40, 72, 80 and 96 are padded with zeros by TMA.
TEST_P(AttentionWgmmaTest, HeadDimensions) {
  for (int dim : {40, 64, 72, 80, 96, 128}) {
    check({.query_lengths = {150, 9},
           .key_lengths = {150, 9},
           .num_heads = 2,
           .num_kv_heads = 1,
           .head_dim = dim});
  }
}

TEST_P(AttentionWgmmaTest, Lengths) {
  const std::vector<int> lengths[] = {{1},
                                      {0, 1, 0},
                                      {63},
                                      {64},
                                      {65},
                                      {127},
                                      {128},
                                      {129},
                                      {256},
                                      {257, 2},
                                      {1, 64, 3, 0, 113, 31}};
  for (const auto& length : lengths) {
    for (bool causal : {true, false}) {
      check({.query_lengths = length, .key_lengths = length, .head_dim = 64, .causal = causal});
    }
  }
}

// More tiles of keys than the rings have slots: a slot that is given back too early is overwritten.
TEST_P(AttentionWgmmaTest, LongSequences) {
  for (int dim : {64, 128}) {
    for (bool causal : {true, false}) {
      check({.query_lengths = {140, 3},
             .key_lengths = {900, 700},
             .head_dim = dim,
             .causal = causal});
    }
  }
}

TEST_P(AttentionWgmmaTest, Windows) {
  for (int window : {1, 2, 63, 64, 65, 127, 128, 129, 1000}) {
    for (bool causal : {true, false}) {
      check({.query_lengths = {300, 3, 64},
             .key_lengths = {300, 130, 140},
             .head_dim = 64,
             .causal = causal,
             .window = window});
    }
  }
}

// More keys than queries, fewer, none; the first queries see nothing where there are fewer.
TEST_P(AttentionWgmmaTest, QueriesAndKeysOfDifferentLengths) {
  for (int dim : {64, 128}) {
    for (bool causal : {true, false}) {
      check({.query_lengths = {5, 1, 70, 33, 4, 0, 7, 150, 140},
             .key_lengths = {150, 300, 71, 130, 4, 9, 0, 20, 1},
             .num_heads = 2,
             .num_kv_heads = 2,
             .head_dim = dim,
             .causal = causal});
    }
  }
}

TEST_P(AttentionWgmmaTest, GroupsOfHeads) {
  for (int group = 1; group <= 8; ++group) {
    check({.query_lengths = {65, 2},
           .key_lengths = {65, 90},
           .num_heads = 2 * group,
           .num_kv_heads = 2,
           .head_dim = 64});
  }
}

TEST_P(AttentionWgmmaTest, FusedBuffer) {
  for (int dim : {64, 128}) {
    check({.query_lengths = {140, 3, 29},
           .key_lengths = {140, 3, 29},
           .num_heads = 4,
           .num_kv_heads = 2,
           .head_dim = dim},
          42, Layout::kFusedAligned);
  }
}

// Keys past seqused_k are NaN, and lie in the same tiles as those in use.
TEST_P(AttentionWgmmaTest, KeysThatAreNotInUse) {
  for (bool causal : {true, false}) {
    check({.query_lengths = {1, 3, 140, 8, 1},
           .key_lengths = {80, 200, 250, 30, 10},
           .keys_used = {33, 129, 200, 0, 10},
           .num_heads = 4,
           .num_kv_heads = 2,
           .head_dim = 64,
           .causal = causal});
  }
}

// More tiles than multiprocessors: blocks go on to a second and third one.
TEST_P(AttentionWgmmaTest, MoreTilesThanBlocks) {
  const int available = ops().device_info(stream()).multiprocessors;
  AttentionProblem problem = {.num_heads = 4, .num_kv_heads = 2, .head_dim = 64};
  for (int s = 0; 4 * s < 2 * available + 40; ++s) {
    problem.query_lengths.push_back(s % 7 == 0 ? 140 : 10 + s % 60);
    problem.key_lengths.push_back(problem.query_lengths.back() + (s % 5 == 0 ? 130 : 0));
  }
  check(problem);
}

// A sequence of NaN changes no bit of its neighbours, which share tiles with it; nor does what a
// sequence is packed with.
TEST_P(AttentionWgmmaTest, NeighboursChangeNoBits) {
  const AttentionProblem packed = with_scale({.query_lengths = {70, 90, 200, 5},
                                              .key_lengths = {70, 90, 200, 40},
                                              .num_heads = 2,
                                              .num_kv_heads = 1,
                                              .head_dim = 64});
  Random random(43);
  AttentionInputs inputs = random_inputs(packed, DType::bf16, random);
  const auto out_of = [&](const AttentionProblem& problem, const AttentionInputs& of) {
    AttentionOnDevice device(stream(), ops(), problem, of, DType::bf16, Layout::kAligned);
    EXPECT_TRUE(device.fits_wgmma());
    return device.forward().out;
  };
  const Values out = out_of(packed, inputs);
  const auto slice = [](const Values& x, int64_t from, int64_t count, int64_t width) {
    return Values(x.begin() + from * width, x.begin() + (from + count) * width);
  };
  const AttentionProblem alone = with_scale({.query_lengths = {90},
                                             .key_lengths = {90},
                                             .num_heads = 2,
                                             .num_kv_heads = 1,
                                             .head_dim = 64});
  expect_equal(out_of(alone, {slice(inputs.q, 70, 90, 128),
                              slice(inputs.k, 70, 90, 64),
                              slice(inputs.v, 70, 90, 64),
                              {}}),
               slice(out, 70, 90, 128), "alone");
  for (Values* const x : {&inputs.q, &inputs.k, &inputs.v}) {
    const int64_t width = x == &inputs.q ? 128 : 64;
    std::fill_n(x->begin() + 160 * width, 200 * width, kNan);
  }
  const Values beside_nan = out_of(packed, inputs);
  expect_equal(slice(beside_nan, 0, 160, 128), slice(out, 0, 160, 128), "before NaN");
  expect_equal(slice(beside_nan, 360, 5, 128), slice(out, 360, 5, 128), "after NaN");
  for (double x : slice(beside_nan, 160, 200, 128)) ASSERT_TRUE(std::isnan(x));
}

// Whole numbers, one key per query: P is 1 and outputs are exact.
TEST_P(AttentionWgmmaTest, ExactWhenEachQuerySeesOneKey) {
  const AttentionProblem problem = {.query_lengths = {200, 3},
                                    .key_lengths = {200, 3},
                                    .num_heads = 4,
                                    .num_kv_heads = 2,
                                    .head_dim = 128,
                                    .window = 1};
  Random random(44);
  const AttentionInputs inputs = {random.integers(problem.query_values(), -8, 8),
                                  random.integers(problem.key_values(), -8, 8),
                                  random.integers(problem.key_values(), -8, 8),
                                  {}};
  const auto exact = reference_attention<double>(problem, inputs, no_rounding());
  AttentionOnDevice device(stream(), ops(), problem, inputs, DType::bf16, Layout::kAligned);
  expect_equal(device.forward().out, exact.out, "out");
}

TEST_P(AttentionWgmmaTest, SameBitsOnAnyThreadCount) {
  std::vector<AttentionProblem> problems = {with_scale({.query_lengths = {290, 3, 0, 130},
                                                        .key_lengths = {290, 90, 0, 130},
                                                        .num_heads = 4,
                                                        .num_kv_heads = 2,
                                                        .head_dim = 128})};
  if (on_gpu()) {
    problems.push_back(with_scale({.query_lengths = {1700, 3324},
                                   .key_lengths = {1700, 3324},
                                   .num_heads = 16,
                                   .num_kv_heads = 4,
                                   .head_dim = 64}));
  }
  for (const AttentionProblem& problem : problems) {
    Random random(45);
    const AttentionInputs inputs = random_inputs(problem, DType::bf16, random);
    AttentionOnDevice device(stream(), ops(), problem, inputs, DType::bf16, Layout::kAligned);
    const auto body = [&] {
      const AttentionOutputs found = device.forward();
      Bytes bytes;
      for (const Values* values : {&found.out, &found.lse}) {
        const auto* const data = reinterpret_cast<const std::byte*>(values->data());
        bytes.insert(bytes.end(), data, data + values->size() * sizeof(double));
      }
      return bytes;
    };
    expect_same_on_any_thread_count(body);
    expect_repeatable(stream(), body);
  }
}

// Scores that need the running maximum, in both directions.
TEST_P(AttentionWgmmaTest, LargeScores) {
  const AttentionProblem problem = {.query_lengths = {300},
                                    .key_lengths = {300},
                                    .num_heads = 2,
                                    .num_kv_heads = 2,
                                    .head_dim = 64};
  for (double size : {256.0, -256.0}) {
    Random random(46);
    AttentionInputs inputs = random_inputs(problem, DType::bf16, random);
    for (int64_t i = 0; i < problem.query_values(); i += problem.head_dim) {
      inputs.q[i] = 1.0;
      inputs.k[i] = size + 2.0 * static_cast<double>(i / 4000);
    }
    const auto exact = reference_attention<double>(problem, inputs, no_rounding());
    const auto twin = reference_attention<float>(problem, inputs, rounding_to(DType::bf16));
    AttentionOnDevice device(stream(), ops(), problem, inputs, DType::bf16, Layout::kAligned);
    const AttentionOutputs found = device.forward();
    expect_close(found.out, DType::bf16, exact.out, twin.out, "out");
    expect_close_lse(found.lse, exact.lse, twin.lse);
  }
}

// Which kernel computes what: by shape, by what is asked for, by the GPU.
TEST_P(AttentionWgmmaTest, IsChosenByShapeAndDevice) {
  if (!simulated()) GTEST_SKIP() << "kernels are counted on simt";
  const auto kernel_of = [&](AttentionProblem problem, DType dtype, Layout layout) {
    problem = with_scale(problem);
    Random random(47);
    const AttentionInputs inputs = random_inputs(problem, dtype, random);
    AttentionOnDevice device(stream(), ops(), problem, inputs, dtype, layout);
    simt::start_counting();
    device.forward();
    const auto counted = simt::stop_counting();
    EXPECT_EQ(counted.size(), 1u);
    const bool wgmma = counted.begin()->first == "attention_forward_wgmma";
    EXPECT_EQ(wgmma || counted.begin()->first == "attention_forward", true);
    return wgmma;
  };
  const AttentionProblem one = {.query_lengths = {6}, .key_lengths = {6}, .head_dim = 64};
  EXPECT_TRUE(kernel_of(one, DType::bf16, Layout::kAligned));
  EXPECT_TRUE(kernel_of(one, DType::bf16, Layout::kFusedAligned));
  EXPECT_FALSE(kernel_of(one, DType::f32, Layout::kAligned));
  EXPECT_FALSE(kernel_of(one, DType::bf16, Layout::kSeparate));
  for (int dim : {32, 36, 136}) {
    AttentionProblem other = one;
    other.head_dim = dim;
    EXPECT_FALSE(kernel_of(other, DType::bf16, Layout::kAligned)) << dim;
  }
  AttentionProblem dropped = one;
  dropped.dropout_p = 0.5;
  EXPECT_FALSE(kernel_of(dropped, DType::bf16, Layout::kAligned));
  {
    const WithAttention with(AttentionBackend::mma);
    EXPECT_FALSE(kernel_of(one, DType::bf16, Layout::kAligned));
  }
  simt::set_claimed_capability(80);
  EXPECT_FALSE(kernel_of(one, DType::bf16, Layout::kAligned));
  simt::set_claimed_capability(100);
  EXPECT_FALSE(kernel_of(one, DType::bf16, Layout::kAligned));
  simt::set_claimed_capability(90);
}

}  // namespace
}  // namespace engine::kernels::testing
