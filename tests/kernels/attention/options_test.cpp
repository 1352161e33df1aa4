// Distance bias and dropout, alone and with everything else.
#include <gtest/gtest.h>

#include <numeric>

#include "tests/kernels/attention/harness.h"

namespace engine::kernels::testing {
namespace {

ENGINE_KERNEL_TEST_SUITE(AttentionOptionsTest);

TEST_P(AttentionOptionsTest, DistanceBias) {
  for (DType dtype : kFloats) {
    for (bool causal : {true, false}) {
      SCOPED_TRACE(std::string(name_of(dtype)) + (causal ? " causal" : " both directions"));
      // T5: relative positions both ways; no scale. Also a decoder's step.
      expect_matches_reference(stream(), ops(),
                               {.query_lengths = {130, 5, 2},
                                .key_lengths = {130, 5, 70},
                                .num_heads = 3,
                                .num_kv_heads = 3,
                                .head_dim = 8,
                                .scale = 0.5,
                                .causal = causal,
                                .distance_count = causal ? 130 : 259,
                                .distance_offset = 129},
                               dtype, 13);
    }
  }
}

// The gradient adds up over many sequences, whose queries begin before or after their first key.
TEST_P(AttentionOptionsTest, DistanceBiasOfManySequences) {
  for (DType dtype : kFloats) {
    for (bool causal : {true, false}) {
      for (int dim : {16, 72}) {
        SCOPED_TRACE(std::string(name_of(dtype)) + (causal ? " causal" : " both directions") +
                     " head_dim " + std::to_string(dim));
        expect_matches_reference(
            stream(), ops(),
            with_scale({.query_lengths = {70, 1, 0, 65, 20, 3, 64, 9, 33, 2, 130},
                        .key_lengths = {64, 5, 7, 66, 2, 0, 64, 100, 33, 40, 80},
                        .keys_used = {60, 5, 7, 66, 2, 0, 64, 90, 0, 40, 80},
                        .num_heads = 2,
                        .num_kv_heads = 1,
                        .head_dim = dim,
                        .causal = causal,
                        .window = causal ? 50 : 0,
                        .distance_count = 259,
                        .distance_offset = 129}),
            dtype, 26, Layout::kAligned);
      }
    }
  }
}

TEST_P(AttentionOptionsTest, Dropout) {
  for (DType dtype : kFloats) {
    expect_matches_reference(stream(), ops(),
                             with_scale({.query_lengths = {77, 2, 10},
                                         .key_lengths = {140, 70, 10},
                                         .num_heads = 4,
                                         .num_kv_heads = 2,
                                         .head_dim = 16,
                                         .dropout_p = 0.3,
                                         .dropout_seed = 0x123456789abcdef0u}),
                             dtype, 14);
  }
}

// The contract's dropout is a mask on P: with v = 1 the output is the mean of what was kept.
TEST_P(AttentionOptionsTest, DropoutKeepsTheExpectation) {
  AttentionProblem problem = with_scale({.query_lengths = {256},
                                         .key_lengths = {256},
                                         .num_heads = 4,
                                         .num_kv_heads = 4,
                                         .head_dim = 8,
                                         .causal = false,
                                         .dropout_p = 0.2,
                                         .dropout_seed = 1});
  Random random(21);
  AttentionInputs inputs = random_inputs(problem, DType::f32, random);
  std::fill(inputs.v.begin(), inputs.v.end(), 1.0);
  AttentionOnDevice device(stream(), ops(), problem, inputs, DType::f32);
  const Values out = device.forward().out;
  const double mean = std::accumulate(out.begin(), out.end(), 0.0) / out.size();
  // 262144 draws of variance p/(1-p) = 0.25, weights uneven by a factor below 3: deviation < 2e-3
  EXPECT_NEAR(mean, 1.0, 8e-3);
}

// Bias, dropout and window together, for each instance of the kernels.
TEST_P(AttentionOptionsTest, EveryOptionAtEveryHeadDimension) {
  for (DType dtype : kFloats) {
    for (int dim : {8, 32, 48, 64, 72, 96, 104, 128, 136, 256}) {
      for (Layout layout : {Layout::kAligned, Layout::kSeparate}) {
        if (layout == Layout::kSeparate && dim % 32 != 0) continue;
        SCOPED_TRACE(std::string(name_of(dtype)) + " head_dim " + std::to_string(dim));
        expect_matches_reference(stream(), ops(),
                                 with_scale({.query_lengths = {70, 0, 9},
                                             .key_lengths = {90, 3, 9},
                                             .num_heads = 2,
                                             .num_kv_heads = 1,
                                             .head_dim = dim,
                                             .window = 65,
                                             .distance_count = 90,
                                             .distance_offset = 89,
                                             .dropout_p = 0.2,
                                             .dropout_seed = 7}),
                                 dtype, 200 + dim, layout);
      }
    }
  }
}

}  // namespace
}  // namespace engine::kernels::testing
