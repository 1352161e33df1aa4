// Attention against plain fp64 loops (reference/attention.h), whose backward is checked by finite
// differences first: shapes, masks, layouts.
#include <gtest/gtest.h>

#include "tests/kernels/attention/harness.h"

namespace engine::kernels::testing {
namespace {

ENGINE_KERNEL_TEST_SUITE(AttentionTest);

// The reference's own backward, by finite differences in fp64.
TEST(AttentionReferenceTest, BackwardIsTheGradient) {
  AttentionProblem problem = {.query_lengths = {3, 0, 5},
                              .key_lengths = {4, 2, 7},
                              .num_heads = 4,
                              .num_kv_heads = 2,
                              .head_dim = 3,
                              .scale = 0.7,
                              .causal = true,
                              .window = 4,
                              .distance_count = 13,
                              .distance_offset = 8,
                              .dropout_p = 0.25,
                              .dropout_seed = 11};
  for (bool causal : {true, false}) {
    problem.causal = causal;
    Random random(5);
    const AttentionInputs inputs = random_inputs(problem, DType::f32, random);
    const Values d_out = random.normal(problem.query_values(), DType::f32);
    const auto outputs = reference_attention<double>(problem, inputs, no_rounding());
    const auto gradients =
        reference_attention_backward<double>(problem, inputs, outputs, d_out, no_rounding());
    const auto check = [&](Values AttentionInputs::*member, const Values& gradient,
                           const std::string& what) {
      expect_gradient(
          [&](const Values& x) {
            AttentionInputs moved = inputs;
            moved.*member = x;
            return dot(reference_attention<double>(problem, moved, no_rounding()).out, d_out);
          },
          inputs.*member, gradient, what);
    };
    check(&AttentionInputs::q, gradients.d_q, "d_q");
    check(&AttentionInputs::k, gradients.d_k, "d_k");
    check(&AttentionInputs::v, gradients.d_v, "d_v");
    check(&AttentionInputs::bias, gradients.d_bias, "d_bias");
  }
}

TEST_P(AttentionTest, EveryHeadDimension) {
  for (DType dtype : kFloats) {
    for (int dim : {1, 8, 16, 24, 40, 64, 80, 128, 256}) {
      SCOPED_TRACE(std::string(name_of(dtype)) + " head_dim " + std::to_string(dim));
      expect_matches_reference(stream(), ops(),
                               with_scale({.query_lengths = {70, 9},
                                           .key_lengths = {70, 9},
                                           .num_heads = 2,
                                           .num_kv_heads = 1,
                                           .head_dim = dim}),
                               dtype, 100 + dim);
    }
  }
}

TEST_P(AttentionTest, OddLengths) {
  const std::vector<int> lengths[] = {{1},  {2},   {5},       {63}, {64},
                                      {65}, {129}, {0, 1, 0}, {0},  {1, 64, 3, 0, 113, 31}};
  for (DType dtype : kFloats) {
    for (const auto& length : lengths) {
      for (bool causal : {true, false}) {
        SCOPED_TRACE(std::string(name_of(dtype)) + " length " + std::to_string(length[0]));
        expect_matches_reference(stream(), ops(),
                                 with_scale({.query_lengths = length,
                                             .key_lengths = length,
                                             .num_heads = 3,
                                             .num_kv_heads = 3,
                                             .head_dim = 16,
                                             .causal = causal}),
                                 dtype, 7);
      }
    }
  }
}

TEST_P(AttentionTest, Windows) {
  for (DType dtype : kFloats) {
    for (int window : {1, 2, 63, 64, 65, 127, 128, 129, 1000}) {
      for (bool causal : {true, false}) {
        SCOPED_TRACE(std::string(name_of(dtype)) + " window " + std::to_string(window) +
                     (causal ? " causal" : ""));
        expect_matches_reference(stream(), ops(),
                                 with_scale({.query_lengths = {200, 3, 64},
                                             .key_lengths = {200, 130, 140},
                                             .num_heads = 1,
                                             .num_kv_heads = 1,
                                             .head_dim = 16,
                                             .causal = causal,
                                             .window = window}),
                                 dtype, 8);
      }
    }
  }
}

// Queries are the last positions of the keys; where there are more queries than keys, the first
// queries see nothing under a causal mask.
TEST_P(AttentionTest, QueriesAndKeysOfDifferentLengths) {
  for (DType dtype : kFloats) {
    for (bool causal : {true, false}) {
      SCOPED_TRACE(std::string(name_of(dtype)) + (causal ? " causal" : " cross"));
      expect_matches_reference(stream(), ops(),
                               with_scale({.query_lengths = {5, 1, 70, 33, 4, 0, 7, 150},
                                           .key_lengths = {150, 200, 71, 130, 4, 9, 0, 20},
                                           .num_heads = 2,
                                           .num_kv_heads = 2,
                                           .head_dim = 24,
                                           .causal = causal}),
                               dtype, 9);
    }
  }
}

TEST_P(AttentionTest, GroupsOfHeads) {
  for (DType dtype : kFloats) {
    for (int group : {1, 2, 3, 4, 5, 6, 7, 8}) {
      SCOPED_TRACE(std::string(name_of(dtype)) + " group " + std::to_string(group));
      expect_matches_reference(stream(), ops(),
                               with_scale({.query_lengths = {65, 2, 20},
                                           .key_lengths = {65, 90, 20},
                                           .num_heads = 2 * group,
                                           .num_kv_heads = 2,
                                           .head_dim = 16}),
                               dtype, 10);
    }
  }
}

TEST_P(AttentionTest, FusedBuffer) {
  for (DType dtype : kFloats) {
    expect_matches_reference(stream(), ops(),
                             with_scale({.query_lengths = {100, 3, 29},
                                         .key_lengths = {100, 3, 29},
                                         .num_heads = 4,
                                         .num_kv_heads = 2,
                                         .head_dim = 40}),
                             dtype, 11, Layout::kFused);
  }
}

// Keys past seqused_k are NaN: they must not be read, and their gradient is zero.
TEST_P(AttentionTest, KeysThatAreNotInUse) {
  for (DType dtype : kFloats) {
    for (bool causal : {true, false}) {
      expect_matches_reference(stream(), ops(),
                               with_scale({.query_lengths = {1, 3, 40, 8, 1},
                                           .key_lengths = {80, 200, 150, 30, 10},
                                           .keys_used = {33, 129, 100, 0, 10},
                                           .num_heads = 4,
                                           .num_kv_heads = 2,
                                           .head_dim = 16,
                                           .causal = causal}),
                               dtype, 12);
    }
  }
}

// Everything at once, and parts of the queries that add up to d_k and d_v (long sequences).
TEST_P(AttentionTest, LongSequence) {
  for (DType dtype : kFloats) {
    for (int window : {0, 300}) {
      SCOPED_TRACE(std::string(name_of(dtype)) + " window " + std::to_string(window));
      expect_matches_reference(stream(), ops(),
                               with_scale({.query_lengths = {1100, 30},
                                           .key_lengths = {1203, 30},
                                           .num_heads = 2,
                                           .num_kv_heads = 1,
                                           .head_dim = 16,
                                           .window = window,
                                           .distance_count = 1300,
                                           .distance_offset = 1299,
                                           .dropout_p = 0.1,
                                           .dropout_seed = 5}),
                               dtype, 15);
    }
  }
}

// Lengths around the tiles of all kernels (16 to 128), in rows that vector loads can read.
TEST_P(AttentionTest, EdgesOfTiles) {
  for (DType dtype : kFloats) {
    for (int length : {15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 191, 192, 193}) {
      for (bool causal : {true, false}) {
        SCOPED_TRACE(std::string(name_of(dtype)) + " length " + std::to_string(length) +
                     (causal ? " causal" : ""));
        expect_matches_reference(stream(), ops(),
                                 with_scale({.query_lengths = {length, 1, length - 1},
                                             .key_lengths = {length, 64, length + 1},
                                             .num_heads = 2,
                                             .num_kv_heads = 1,
                                             .head_dim = 16,
                                             .causal = causal,
                                             .window = length % 3 == 0 ? length / 2 : 0}),
                                 dtype, 300 + length, Layout::kAligned);
      }
    }
  }
}

// Few queries against a long cache, part of it in use: generation. Forward only.
TEST_P(AttentionTest, Decode) {
  const auto check = [&](AttentionProblem problem, DType dtype, Layout layout) {
    Random random(23);
    problem = with_scale(problem);
    const AttentionInputs inputs = random_inputs(problem, dtype, random);
    const auto reference = reference_attention<double>(problem, inputs, no_rounding());
    const auto twin = reference_attention<float>(problem, inputs, rounding_to(dtype));
    AttentionOnDevice device(stream(), ops(), problem, inputs, dtype, layout);
    const AttentionOutputs outputs = device.forward();
    expect_close(outputs.out, dtype, reference.out, twin.out, "out");
    expect_close_lse(outputs.lse, reference.lse, twin.lse);
    if (simulated()) expect_equal(device.forward().out, outputs.out, "out again");
  };
  for (DType dtype : kFloats) {
    for (int group : {1, 2, 3, 4, 5, 6, 7, 8}) {
      for (int window : {0, 1, 100, 256, 257}) {
        SCOPED_TRACE(std::string(name_of(dtype)) + " group " + std::to_string(group) + " window " +
                     std::to_string(window));
        check({.query_lengths = {1, 4, 0, 2, 1, 1, 3, 1},
               .key_lengths = {700, 257, 9, 256, 129, 600, 513, 20},
               .keys_used = {650, 257, 9, 256, 128, 512, 513, 0},
               .num_heads = 2 * group,
               .num_kv_heads = 2,
               .head_dim = 24,
               .window = window},
              dtype, group % 2 ? Layout::kAligned : Layout::kSeparate);
      }
    }
    for (int dim : {64, 72, 128, 256}) {
      for (bool causal : {true, false}) {
        SCOPED_TRACE(std::string(name_of(dtype)) + " head_dim " + std::to_string(dim));
        check({.query_lengths = {1, 3},
               .key_lengths = {300, 140},
               .num_heads = 6,
               .num_kv_heads = 1,
               .head_dim = dim,
               .causal = causal},
              dtype, dim % 64 == 0 ? Layout::kAligned : Layout::kSeparate);
      }
    }
  }
}

// Large scores: the running maximum must hold, in both directions.
TEST_P(AttentionTest, LargeScores) {
  const AttentionProblem problem = {.query_lengths = {130},
                                    .key_lengths = {130},
                                    .num_heads = 2,
                                    .num_kv_heads = 2,
                                    .head_dim = 16};
  for (double size : {300.0, -300.0}) {
    Random random(16);
    AttentionInputs inputs = random_inputs(problem, DType::f32, random);
    for (int64_t i = 0; i < problem.query_values(); i += problem.head_dim) {
      inputs.q[i] = 1.0;
      inputs.k[i] = size + static_cast<double>(i / 100);
    }
    const auto reference = reference_attention<double>(problem, inputs, no_rounding());
    const auto twin = reference_attention<float>(problem, inputs, rounding_to(DType::f32));
    AttentionOnDevice device(stream(), ops(), problem, inputs, DType::f32);
    const AttentionOutputs outputs = device.forward();
    expect_close_lse(outputs.lse, reference.lse, twin.lse);
    for (size_t i = 0; i < outputs.out.size(); ++i) {
      ASSERT_NEAR(outputs.out[i], reference.out[i], 3e-4);  // 24 bits of a score of 400: 3e-5
    }
  }
}

// NaN in a query, a key or a value reaches the output of those who see it.
TEST_P(AttentionTest, NanSpreads) {
  const AttentionProblem problem = with_scale({.query_lengths = {70},
                                               .key_lengths = {70},
                                               .num_heads = 1,
                                               .num_kv_heads = 1,
                                               .head_dim = 16,
                                               .causal = false});
  for (DType dtype : kFloats) {
    for (auto member : {&AttentionInputs::q, &AttentionInputs::k, &AttentionInputs::v}) {
      Random random(18);
      AttentionInputs inputs = random_inputs(problem, dtype, random);
      (inputs.*member)[5] = kNan;
      AttentionOnDevice device(stream(), ops(), problem, inputs, dtype);
      EXPECT_TRUE(std::isnan(device.forward().out[5]));
    }
  }
}

TEST_P(AttentionTest, RefusesShapesThatItCannotDo) {
  AttentionForward arguments = {.shape = {.num_heads = 3, .num_kv_heads = 2, .head_dim = 8}};
  EXPECT_THROW(ops().attention_forward(stream(), arguments), std::logic_error);
  arguments.shape = {.num_heads = 2, .num_kv_heads = 2, .head_dim = 257};
  EXPECT_THROW(ops().attention_forward(stream(), arguments), std::logic_error);
}

}  // namespace
}  // namespace engine::kernels::testing
