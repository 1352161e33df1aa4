// What must not change a bit: alignment, packing, threads, repetition.
#include <gtest/gtest.h>

#include "tests/kernels/attention/harness.h"

namespace engine::kernels::testing {
namespace {

ENGINE_KERNEL_TEST_SUITE(AttentionBitsTest);

Bytes bytes_of_values(std::initializer_list<const Values*> arrays) {
  Bytes bytes;
  for (const Values* values : arrays) {
    const auto* const data = reinterpret_cast<const std::byte*>(values->data());
    bytes.insert(bytes.end(), data, data + values->size() * sizeof(double));
  }
  return bytes;
}

Bytes forward_and_backward(AttentionOnDevice& device, const Values& d_out) {
  const AttentionOutputs outputs = device.forward();
  const AttentionGradients gradients = device.backward(d_out);
  return bytes_of_values({&outputs.out, &outputs.lse, &gradients.d_q, &gradients.d_k,
                          &gradients.d_v, &gradients.d_bias});
}

TEST_P(AttentionBitsTest, SameBitsOnAnyThreadCount) {
  // On the CPU long enough for several parts of the queries.
  const int longest = simulated() ? 150 : 600;
  std::vector<AttentionProblem> problems = {
      with_scale({.query_lengths = {longest, 3, 0, 130, 1, 64},
                  .key_lengths = {longest, 90, 0, 130, 1, 70},
                  .num_heads = 4,
                  .num_kv_heads = 2,
                  .head_dim = 24,
                  .distance_count = 700,
                  .distance_offset = 699,
                  .dropout_p = 0.1,
                  .dropout_seed = 3})};
  if (on_gpu()) {
    for (const int dim : {64, 128}) {
      problems.push_back(with_scale({.query_lengths = {700, 324},
                                     .key_lengths = {700, 324},
                                     .num_heads = 8,
                                     .num_kv_heads = 2,
                                     .head_dim = dim}));
    }
  }
  for (const AttentionProblem& problem : problems) {
    for (DType dtype : kFloats) {
      Random random(19);
      const AttentionInputs inputs = random_inputs(problem, dtype, random);
      const Values d_out = random.normal(problem.query_values(), dtype);
      AttentionOnDevice device(stream(), ops(), problem, inputs, dtype);
      const auto body = [&] { return forward_and_backward(device, d_out); };
      expect_same_on_any_thread_count(body);
      expect_repeatable(stream(), body);
    }
  }
}

// Of one kernel. (Hopper's takes aligned heads only, and sums in another order.)
TEST_P(AttentionBitsTest, AlignmentChangesNoBits) {
  const WithAttention with(AttentionBackend::mma);
  for (DType dtype : kFloats) {
    for (int dim : {24, 64, 80, 128, 160}) {
      SCOPED_TRACE(std::string(name_of(dtype)) + " head_dim " + std::to_string(dim));
      const AttentionProblem problem = with_scale({.query_lengths = {100, 3, 29},
                                                   .key_lengths = {100, 70, 29},
                                                   .num_heads = 4,
                                                   .num_kv_heads = 2,
                                                   .head_dim = dim});
      Random random(22);
      const AttentionInputs inputs = random_inputs(problem, dtype, random);
      const Values d_out = random.normal(problem.query_values(), dtype);
      AttentionOnDevice aligned(stream(), ops(), problem, inputs, dtype, Layout::kAligned);
      AttentionOnDevice odd(stream(), ops(), problem, inputs, dtype);
      expect_equal(aligned.forward().out, odd.forward().out, "out");
      const AttentionGradients a = aligned.backward(d_out), b = odd.backward(d_out);
      expect_equal(a.d_q, b.d_q, "d_q");
      expect_equal(a.d_k, b.d_k, "d_k");
      expect_equal(a.d_v, b.d_v, "d_v");
    }
  }
}

// A token that is generated does not depend on who else is generated for.
TEST_P(AttentionBitsTest, DecodeBatchChangesNoBits) {
  for (DType dtype : kFloats) {
    Random random(24);
    const std::vector<int> keys = {700, 300, 129, 40};
    const AttentionProblem together = with_scale({.query_lengths = {1, 1, 1, 1},
                                                  .key_lengths = keys,
                                                  .num_heads = 4,
                                                  .num_kv_heads = 2,
                                                  .head_dim = 40});
    const AttentionInputs inputs = random_inputs(together, dtype, random);
    const Values out = AttentionOnDevice(stream(), ops(), together, inputs, dtype).forward().out;
    int64_t q_at = 0, k_at = 0;
    for (int count : keys) {
      AttentionProblem alone = together;
      alone.query_lengths = {1};
      alone.key_lengths = {count};
      const auto slice = [](const Values& from, int64_t at, int64_t size) {
        return Values(from.begin() + at, from.begin() + at + size);
      };
      const int64_t q_count = alone.query_values(), k_count = alone.key_values();
      const AttentionInputs own = {slice(inputs.q, q_at, q_count),
                                   slice(inputs.k, k_at, k_count),
                                   slice(inputs.v, k_at, k_count),
                                   {}};
      // Up to 128 keys a batch of its own may take another path.
      if (count > 128) {
        expect_equal(AttentionOnDevice(stream(), ops(), alone, own, dtype).forward().out,
                     slice(out, q_at, q_count), "out");
      }
      q_at += q_count;
      k_at += k_count;
    }
  }
}

// A packed batch gives each sequence the bits that it has alone. (Not with dropout, whose index is
// the token's place in the batch.)
TEST_P(AttentionBitsTest, PackingChangesNoBits) {
  const std::vector<int> queries = {70, 1, 600, 33, 4}, keys = {70, 100, 640, 33, 90};
  const auto problem_of = [&](std::vector<int> q, std::vector<int> k) {
    return with_scale({.query_lengths = std::move(q),
                       .key_lengths = std::move(k),
                       .num_heads = 4,
                       .num_kv_heads = 2,
                       .head_dim = 24,
                       .window = 100,
                       .distance_count = 700,
                       .distance_offset = 699});
  };
  const AttentionProblem packed = problem_of(queries, keys);
  for (DType dtype : kFloats) {
    Random random(20);
    const AttentionInputs inputs = random_inputs(packed, dtype, random);
    const Values d_out = random.normal(packed.query_values(), dtype);
    AttentionOnDevice all(stream(), ops(), packed, inputs, dtype);
    const AttentionOutputs outputs = all.forward();
    const AttentionGradients gradients = all.backward(d_out);
    int64_t q_at = 0, k_at = 0;
    for (size_t s = 0; s < queries.size(); ++s) {
      const AttentionProblem alone = problem_of({queries[s]}, {keys[s]});
      const auto slice = [](const Values& from, int64_t at, int64_t count) {
        return Values(from.begin() + at, from.begin() + at + count);
      };
      const int64_t q_count = alone.query_values(), k_count = alone.key_values();
      AttentionOnDevice device(stream(), ops(), alone,
                               {slice(inputs.q, q_at, q_count), slice(inputs.k, k_at, k_count),
                                slice(inputs.v, k_at, k_count), inputs.bias},
                               dtype);
      expect_equal(device.forward().out, slice(outputs.out, q_at, q_count), "out");
      const AttentionGradients own = device.backward(slice(d_out, q_at, q_count));
      expect_equal(own.d_q, slice(gradients.d_q, q_at, q_count), "d_q");
      expect_equal(own.d_k, slice(gradients.d_k, k_at, k_count), "d_k");
      expect_equal(own.d_v, slice(gradients.d_v, k_at, k_count), "d_v");
      q_at += q_count;
      k_at += k_count;
    }
  }
}

// One key per query with small integers: P is exactly 1, so outputs and gradients are exact.
TEST_P(AttentionBitsTest, ExactWhenEachQuerySeesOneKey) {
  const AttentionProblem problem = {.query_lengths = {100, 3},
                                    .key_lengths = {100, 3},
                                    .num_heads = 4,
                                    .num_kv_heads = 2,
                                    .head_dim = 40,
                                    .causal = true,
                                    .window = 1};
  for (DType dtype : kFloats) {
    Random random(17);
    const AttentionInputs inputs = {random.integers(problem.query_values(), -8, 8),
                                    random.integers(problem.key_values(), -8, 8),
                                    random.integers(problem.key_values(), -8, 8),
                                    {}};
    const Values d_out = random.integers(problem.query_values(), -8, 8);
    const auto reference = reference_attention<double>(problem, inputs, no_rounding());
    const auto d_reference =
        reference_attention_backward<double>(problem, inputs, reference, d_out, no_rounding());
    AttentionOnDevice device(stream(), ops(), problem, inputs, dtype);
    expect_equal(device.forward().out, reference.out, "out");
    expect_equal(device.backward(d_out).d_v, d_reference.d_v, "d_v");
  }
}

}  // namespace
}  // namespace engine::kernels::testing
