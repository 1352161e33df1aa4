// Attention by cuDNN, where the build and the machine have it.
#include <gtest/gtest.h>

#include "kernels/api/backends.h"
#include "tests/kernels/attention/harness.h"

namespace engine::kernels::testing {
namespace {

ENGINE_KERNEL_TEST_SUITE(AttentionRivalsTest);

class WithAttention {
 public:
  explicit WithAttention(AttentionBackend backend) { select_attention(backend); }
  ~WithAttention() { select_attention(AttentionBackend::engine); }
};

TEST_P(AttentionRivalsTest, CudnnComputesWhatTheContractSays) {
  if (!on_gpu() || !has_cudnn()) GTEST_SKIP() << "needs a GPU and a build with cuDNN";
  const std::vector<int> packed = {300, 1, 77, 256, 130}, even = {256, 256};
  for (const AttentionBackend backend : {AttentionBackend::cudnn, AttentionBackend::automatic}) {
    const WithAttention with(backend);
    for (const auto& lengths : {even, packed}) {
      for (const bool causal : {true, false}) {
        for (const int window : {0, 100}) {
          for (const int num_kv_heads : {4, 1}) {
            for (const int dim : {64, 128}) {
              SCOPED_TRACE(::testing::Message()
                           << lengths.size() << " sequences, causal " << causal << " window "
                           << window << " kv heads " << num_kv_heads << " head_dim " << dim);
              // Windows without a causal mask are ours: the fallback must fit.
              expect_matches_reference(stream(), ops(),
                                       with_scale({.query_lengths = lengths,
                                                   .key_lengths = lengths,
                                                   .num_heads = 4,
                                                   .num_kv_heads = num_kv_heads,
                                                   .head_dim = dim,
                                                   .causal = causal,
                                                   .window = window}),
                                       DType::bf16, 31, Layout::kAligned);
            }
          }
        }
      }
    }
  }
}

TEST_P(AttentionRivalsTest, WhatCudnnCannotDoIsDoneAllTheSame) {
  if (!on_gpu() || !has_cudnn()) GTEST_SKIP() << "needs a GPU and a build with cuDNN";
  const WithAttention with(AttentionBackend::cudnn);
  const AttentionProblem problem = with_scale({.query_lengths = {70, 9},
                                               .key_lengths = {70, 9},
                                               .num_heads = 2,
                                               .num_kv_heads = 1,
                                               .head_dim = 24});
  expect_matches_reference(stream(), ops(), problem, DType::f32, 32);
  expect_matches_reference(stream(), ops(), problem, DType::bf16, 33, Layout::kSeparate);
}

TEST(AttentionBackends, AreChosenByName) {
  EXPECT_EQ(parse_attention_backend("engine"), AttentionBackend::engine);
  EXPECT_EQ(parse_attention_backend("mma"), AttentionBackend::mma);
  EXPECT_EQ(parse_attention_backend("cudnn"), AttentionBackend::cudnn);
  EXPECT_EQ(parse_attention_backend("auto"), AttentionBackend::automatic);
  EXPECT_THROW(parse_attention_backend("fast"), std::invalid_argument);
  EXPECT_EQ(selected_attention(), AttentionBackend::engine);
  if (!has_cudnn()) {
    EXPECT_THROW(select_attention(AttentionBackend::cudnn), std::logic_error);
  }
}

}  // namespace
}  // namespace engine::kernels::testing
