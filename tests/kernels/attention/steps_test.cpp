// The steps of docs/kernels.md compute what attention computes.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "kernels/api/attention_variants.h"
#include "tests/kernels/reference/attention.h"
#include "tests/kernels/support.h"

namespace engine::kernels::testing {
namespace {

class AttentionStepsTest : public KernelTest {};

std::vector<DeviceType> devices_with_steps() {
  std::vector<DeviceType> devices;
  for (DeviceType device : test_devices()) {
    if (attention_variants(device).count > 0) devices.push_back(device);
  }
  return devices;
}
INSTANTIATE_TEST_SUITE_P(Devices, AttentionStepsTest, ::testing::ValuesIn(devices_with_steps()),
                         [](const auto& device) { return name_of(device.param); });

struct Case {
  AttentionProblem problem;
  const char* what;
};
std::vector<Case> cases() {
  return {
      {{.query_lengths = {33, 0, 1, 64},
        .key_lengths = {33, 0, 1, 64},
        .num_heads = 2,
        .num_kv_heads = 2,
        .head_dim = 32,
        .scale = 0.2},
       "causal, packed"},
      {{.query_lengths = {5, 40},
        .key_lengths = {37, 40},
        .num_heads = 4,
        .num_kv_heads = 2,
        .head_dim = 40,
        .scale = 0.15,
        .causal = false},
       "full, cross, grouped heads, an odd head_dim"},
      {{.query_lengths = {70},
        .key_lengths = {70},
        .num_heads = 1,
        .num_kv_heads = 1,
        .head_dim = 136,
        .scale = 0.1,
        .window = 9},
       "sliding window, a wide head"},
      // More queries than keys: the first ones see none.
      {{.query_lengths = {20}, .key_lengths = {7}, .head_dim = 16, .scale = 0.3}, "no keys"},
  };
}

DeviceArray integers(Stream stream, const std::vector<int>& lengths) {
  Values starts(lengths.size() + 1, 0);
  std::partial_sum(lengths.begin(), lengths.end(), starts.begin() + 1);
  return DeviceArray(stream, DType::i32, starts);
}

TEST_P(AttentionStepsTest, EveryStepMatchesTheReference) {
  Random random(7);
  for (DType dtype : {DType::f32, DType::bf16}) {
    for (const Case& one : cases()) {
      const AttentionProblem& problem = one.problem;
      const AttentionInputs inputs = {random.normal(problem.query_values(), dtype),
                                      random.normal(problem.key_values(), dtype),
                                      random.normal(problem.key_values(), dtype),
                                      {}};
      const auto exact = reference_attention<double>(problem, inputs, no_rounding());
      const auto twin = reference_attention<float>(problem, inputs, rounding_to(dtype));
      const DeviceArray cu_q = integers(stream(), problem.query_lengths);
      const DeviceArray cu_k = integers(stream(), problem.key_lengths);
      const auto longest = [](const std::vector<int>& lengths) {
        return *std::max_element(lengths.begin(), lengths.end());
      };
      const AttentionShape shape{.num_sequences = static_cast<int>(problem.query_lengths.size()),
                                 .cu_seqlens_q = cu_q.as<int32_t>(),
                                 .cu_seqlens_k = cu_k.as<int32_t>(),
                                 .total_q = problem.total_q(),
                                 .total_k = problem.total_k(),
                                 .max_seqlen_q = longest(problem.query_lengths),
                                 .max_seqlen_k = longest(problem.key_lengths),
                                 .num_heads = problem.num_heads,
                                 .num_kv_heads = problem.num_kv_heads,
                                 .head_dim = problem.head_dim,
                                 .scale = static_cast<float>(problem.scale),
                                 .causal = problem.causal,
                                 .window = problem.window,
                                 .dtype = dtype};
      const DeviceArray q(stream(), dtype, inputs.q), k(stream(), dtype, inputs.k);
      const DeviceArray v(stream(), dtype, inputs.v);
      const DeviceArray workspace(stream(), DType::u8,
                                  static_cast<int64_t>(ops().attention_forward_workspace(shape)));
      for (const AttentionVariant& variant : attention_variants(GetParam())) {
        SCOPED_TRACE(std::string(variant.name) + ", " + one.what + ", " + name_of(dtype));
        const DeviceArray out(stream(), dtype, problem.query_values());
        const DeviceArray lse(stream(), DType::f32, problem.num_heads * problem.total_q());
        variant.forward(stream(), {.shape = shape,
                                   .q = q.data(),
                                   .k = k.data(),
                                   .v = v.data(),
                                   .q_stride = int64_t{problem.num_heads} * problem.head_dim,
                                   .k_stride = int64_t{problem.num_kv_heads} * problem.head_dim,
                                   .v_stride = int64_t{problem.num_kv_heads} * problem.head_dim,
                                   .out = out.data(),
                                   .lse = lse.as<float>(),
                                   .workspace = workspace.data()});
        expect_close(out, exact.out, twin.out, "out");
        const Values found = lse.values();
        for (size_t i = 0; i < found.size(); ++i) {
          if (std::isinf(exact.lse[i])) {
            EXPECT_EQ(found[i], exact.lse[i]) << i;
          } else {
            EXPECT_NEAR(found[i], exact.lse[i], 1e-5) << i;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace engine::kernels::testing
