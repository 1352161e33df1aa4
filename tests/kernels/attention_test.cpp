// Attention against plain fp64 loops (reference/attention.h), whose backward is checked by finite
// differences first.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <numeric>

#include "kernels/simt/counters.h"
#include "kernels/simt/launch.h"
#include "tests/kernels/reference/attention.h"
#include "tests/kernels/support.h"

namespace engine::kernels::testing {
namespace {

ENGINE_KERNEL_TEST_SUITE(AttentionTest);

constexpr DType kFloats[] = {DType::f32, DType::bf16};
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

AttentionInputs random_inputs(const AttentionProblem& problem, DType dtype, Random& random) {
  return {random.normal(problem.query_values(), dtype), random.normal(problem.key_values(), dtype),
          random.normal(problem.key_values(), dtype),
          random.normal(problem.bias_values(), DType::f32)};
}

// Dense rows of `columns` put at `column` of rows of `stride`, NaN elsewhere; and back.
void put(const Values& dense, int64_t columns, int64_t stride, int64_t column, Values& strided) {
  const int64_t rows = columns > 0 ? static_cast<int64_t>(dense.size()) / columns : 0;
  if (strided.empty()) strided.assign(static_cast<size_t>(rows * stride), kNan);
  for (int64_t r = 0; r < rows; ++r) {
    std::copy_n(&dense[r * columns], columns, &strided[r * stride + column]);
  }
}
// Takes the columns out, leaving NaN.
Values take(Values& strided, int64_t columns, int64_t stride, int64_t column) {
  const int64_t rows = static_cast<int64_t>(strided.size()) / stride;
  Values dense;
  for (int64_t r = 0; r < rows; ++r) {
    double* const from = &strided[r * stride + column];
    dense.insert(dense.end(), from, from + columns);
    std::fill_n(from, columns, kNan);
  }
  return dense;
}
void expect_all_nan(const Values& values, const std::string& what) {
  for (size_t i = 0; i < values.size(); ++i) {
    ASSERT_TRUE(std::isnan(values[i])) << what << ": an unused column was written at " << i;
  }
}

std::vector<int> cumulative(const std::vector<int>& lengths) {
  std::vector<int> result(lengths.size() + 1, 0);
  std::partial_sum(lengths.begin(), lengths.end(), result.begin() + 1);
  return result;
}

enum class Layout {
  kSeparate,  // q, k, v each with unused columns
  kAligned,   // the same, rows on 16-byte boundaries if a head is a multiple of that
  kFused,     // one [tokens, (H + 2K)·D + unused] buffer; needs as many queries as keys
};

// A problem on a device, in strided buffers whose unused columns, unused keys, outputs and
// workspace are NaN.
class Device {
 public:
  Device(Stream stream, const Operations& ops, const AttentionProblem& problem,
         const AttentionInputs& inputs, DType dtype, Layout layout = Layout::kSeparate)
      : stream_(stream), ops_(ops), problem_(problem), dtype_(dtype), layout_(layout) {
    const int64_t queries = int64_t{problem.num_heads} * problem.head_dim;
    const int64_t keys = int64_t{problem.num_kv_heads} * problem.head_dim;
    const auto integers = [&](const std::vector<int>& values) {
      return std::make_unique<DeviceArray>(stream, DType::i32,
                                           Values(values.begin(), values.end()));
    };
    cu_q_ = integers(cumulative(problem.query_lengths));
    cu_k_ = integers(cumulative(problem.key_lengths));
    shape_ = {.num_sequences = static_cast<int>(problem.query_lengths.size()),
              .cu_seqlens_q = cu_q_->as<int32_t>(),
              .cu_seqlens_k = cu_k_->as<int32_t>(),
              .total_q = problem.total_q(),
              .total_k = problem.total_k(),
              .num_heads = problem.num_heads,
              .num_kv_heads = problem.num_kv_heads,
              .head_dim = problem.head_dim,
              .scale = static_cast<float>(problem.scale),
              .causal = problem.causal,
              .window = problem.window,
              .dropout_p = static_cast<float>(problem.dropout_p),
              .dropout_seed = problem.dropout_seed,
              .dtype = dtype};
    for (int length : problem.query_lengths) {
      shape_.max_seqlen_q = std::max(shape_.max_seqlen_q, length);
    }
    for (int length : problem.key_lengths) {
      shape_.max_seqlen_k = std::max(shape_.max_seqlen_k, length);
    }
    if (!problem.keys_used.empty()) {
      used_ = integers(problem.keys_used);
      shape_.seqused_k = used_->as<int32_t>();
    }
    if (problem.distance_count > 0) {
      bias_ = std::make_unique<DeviceArray>(stream, DType::f32, inputs.bias);
      shape_.distance_bias = bias_->as<float>();
      shape_.distance_count = problem.distance_count;
      shape_.distance_offset = problem.distance_offset;
    }
    Values k = inputs.k, v = inputs.v;
    for (size_t s = 0; s < problem.key_lengths.size(); ++s) {
      const int64_t first = cumulative(problem.key_lengths)[s];
      for (int64_t j = problem.used(s); j < problem.key_lengths[s]; ++j) {
        std::fill_n(k.begin() + (first + j) * keys, keys, kNan);
        std::fill_n(v.begin() + (first + j) * keys, keys, kNan);
      }
    }
    if (layout == Layout::kFused) {
      const int64_t stride = queries + 2 * keys + 3;
      Slices all = {Slice{queries, stride, 0}, Slice{keys, stride, queries},
                    Slice{keys, stride, queries + keys}};
      slices_ = all;
      Values fused;
      put(inputs.q, queries, stride, slices_[0].column, fused);
      put(k, keys, stride, slices_[1].column, fused);
      put(v, keys, stride, slices_[2].column, fused);
      inputs_[0] = std::make_shared<DeviceArray>(stream, dtype, fused);
      inputs_[1] = inputs_[2] = inputs_[0];
    } else {
      slices_ = {Slice{queries, queries + 5, 2}, Slice{keys, keys + 3, 1}, Slice{keys, keys, 0}};
      if (layout == Layout::kAligned) {
        slices_ = {Slice{queries, queries + 24, 16}, Slice{keys, keys + 8, 8},
                   Slice{keys, keys, 0}};
      }
      const Values* const dense[3] = {&inputs.q, &k, &v};
      for (int i = 0; i < 3; ++i) {
        Values strided;
        put(*dense[i], slices_[i].columns, slices_[i].stride, slices_[i].column, strided);
        inputs_[i] = std::make_shared<DeviceArray>(stream, dtype, strided);
      }
    }
    out_ = std::make_unique<DeviceArray>(stream, dtype, problem.query_values());
    lse_ = std::make_unique<DeviceArray>(stream, DType::f32, problem.num_heads * problem.total_q());
  }

  AttentionOutputs forward() {
    const DeviceArray workspace(stream_, DType::u8,
                                static_cast<int64_t>(ops_.attention_forward_workspace(shape_)));
    ops_.attention_forward(stream_, {.shape = shape_,
                                     .q = at(inputs_[0], 0),
                                     .k = at(inputs_[1], 1),
                                     .v = at(inputs_[2], 2),
                                     .q_stride = slices_[0].stride,
                                     .k_stride = slices_[1].stride,
                                     .v_stride = slices_[2].stride,
                                     .out = out_->data(),
                                     .lse = lse_->as<float>(),
                                     .workspace = workspace.data()});
    return {out_->values(), lse_->values()};
  }

  // After forward().
  AttentionGradients backward(const Values& d_out_values) {
    const DeviceArray d_out(stream_, dtype_, d_out_values);
    std::shared_ptr<DeviceArray> gradients[3];
    for (int i = 0; i < 3; ++i) {
      gradients[i] = layout_ == Layout::kFused && i > 0
                         ? gradients[0]
                         : std::make_shared<DeviceArray>(stream_, dtype_, inputs_[i]->count());
    }
    DeviceArray workspace(stream_, DType::u8,
                          static_cast<int64_t>(ops_.attention_backward_workspace(shape_)));
    // d_distance_bias is accumulated: it starts from ones.
    const DeviceArray d_bias(stream_, DType::f32,
                             Values(static_cast<size_t>(problem_.bias_values()), 1.0));
    ops_.attention_backward(
        stream_, {.shape = shape_,
                  .q = at(inputs_[0], 0),
                  .k = at(inputs_[1], 1),
                  .v = at(inputs_[2], 2),
                  .q_stride = slices_[0].stride,
                  .k_stride = slices_[1].stride,
                  .v_stride = slices_[2].stride,
                  .out = out_->data(),
                  .lse = lse_->as<float>(),
                  .d_out = d_out.data(),
                  .d_q = at(gradients[0], 0),
                  .d_k = at(gradients[1], 1),
                  .d_v = at(gradients[2], 2),
                  .d_q_stride = slices_[0].stride,
                  .d_k_stride = slices_[1].stride,
                  .d_v_stride = slices_[2].stride,
                  .d_distance_bias = problem_.distance_count > 0 ? d_bias.as<float>() : nullptr,
                  .workspace = workspace.data()});
    Values dense[3];
    Values strided[3];
    for (int i = 0; i < 3; ++i) {
      Values& from = strided[layout_ == Layout::kFused ? 0 : i];
      if (layout_ != Layout::kFused || i == 0) from = gradients[i]->values();
      dense[i] = take(from, slices_[i].columns, slices_[i].stride, slices_[i].column);
    }
    for (const Values& rest : strided) expect_all_nan(rest, "gradient");
    Values bias = d_bias.values();
    for (double& value : bias) value -= 1.0;
    return {dense[0], dense[1], dense[2], bias};
  }

 private:
  struct Slice {
    int64_t columns, stride, column;
  };
  using Slices = std::array<Slice, 3>;
  void* at(const std::shared_ptr<DeviceArray>& array, int slice) const {
    return array->as<std::byte>() + slices_[slice].column * size_of(dtype_);
  }

  Stream stream_;
  const Operations& ops_;
  AttentionProblem problem_;
  DType dtype_;
  Layout layout_;
  AttentionShape shape_;
  std::unique_ptr<DeviceArray> cu_q_, cu_k_, used_, bias_;
  Slices slices_;
  std::shared_ptr<DeviceArray> inputs_[3];
  std::unique_ptr<DeviceArray> out_, lse_;
};

// lse has -inf where a query sees no key: the same queries must have it; then it counts as 0.
void expect_close_lse(Values actual, Values reference, Values twin) {
  ASSERT_EQ(actual.size(), reference.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(std::isinf(actual[i]) && actual[i] < 0, std::isinf(reference[i])) << "lse at " << i;
    if (std::isinf(reference[i])) actual[i] = reference[i] = twin[i] = 0;
  }
  expect_close(actual, DType::f32, reference, twin, "lse");
}

// Where no query sees a second key, d_q and d_k are exactly zero, but kernels have two roundings of
// the same sum to subtract: sums of up to 256 products of a few units, in fp32.
void expect_close_gradient(const Values& actual, DType dtype, const Values& reference,
                           const Values& twin, const std::string& what) {
  const bool all_zero =
      std::all_of(reference.begin(), reference.end(), [](double x) { return x == 0; });
  if (!all_zero) return expect_close(actual, dtype, reference, twin, what);
  for (double value : actual) ASSERT_LT(std::abs(value), 1e-4) << what << " should vanish";
}

// Kernel, fp64 reference and twin: forward and backward.
void expect_matches_reference(Stream stream, const Operations& ops, const AttentionProblem& problem,
                              DType dtype, uint64_t seed, Layout layout = Layout::kSeparate) {
  Random random(seed);
  const AttentionInputs inputs = random_inputs(problem, dtype, random);
  const Values d_out = random.normal(problem.query_values(), dtype);
  const auto reference = reference_attention<double>(problem, inputs, no_rounding());
  const auto twin = reference_attention<float>(problem, inputs, rounding_to(dtype));
  const auto d_reference =
      reference_attention_backward<double>(problem, inputs, reference, d_out, no_rounding());
  const auto d_twin =
      reference_attention_backward<float>(problem, inputs, twin, d_out, rounding_to(dtype));

  Device device(stream, ops, problem, inputs, dtype, layout);
  const AttentionOutputs outputs = device.forward();
  expect_close(outputs.out, dtype, reference.out, twin.out, "out");
  expect_close_lse(outputs.lse, reference.lse, twin.lse);
  const AttentionGradients gradients = device.backward(d_out);
  expect_close_gradient(gradients.d_q, dtype, d_reference.d_q, d_twin.d_q, "d_q");
  expect_close_gradient(gradients.d_k, dtype, d_reference.d_k, d_twin.d_k, "d_k");
  expect_close_gradient(gradients.d_v, dtype, d_reference.d_v, d_twin.d_v, "d_v");
  expect_close(gradients.d_bias, DType::f32, d_reference.d_bias, d_twin.d_bias, "d_distance_bias");
}

AttentionProblem with_scale(AttentionProblem problem) {
  problem.scale = static_cast<float>(1.0 / std::sqrt(problem.head_dim));
  return problem;
}

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
    for (int group : {1, 2, 3, 4, 5, 7, 8}) {
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

TEST_P(AttentionTest, DistanceBias) {
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
TEST_P(AttentionTest, DistanceBiasOfManySequences) {
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

TEST_P(AttentionTest, Dropout) {
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

// Bias, dropout and window together, for each instance of the kernels.
TEST_P(AttentionTest, EveryOptionAtEveryHeadDimension) {
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

// Where rows begin decides how they are loaded, not what is computed.
TEST_P(AttentionTest, AlignmentChangesNoBits) {
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
      Device aligned(stream(), ops(), problem, inputs, dtype, Layout::kAligned);
      Device odd(stream(), ops(), problem, inputs, dtype);
      expect_equal(aligned.forward().out, odd.forward().out, "out");
      const AttentionGradients a = aligned.backward(d_out), b = odd.backward(d_out);
      expect_equal(a.d_q, b.d_q, "d_q");
      expect_equal(a.d_k, b.d_k, "d_k");
      expect_equal(a.d_v, b.d_v, "d_v");
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
    Device device(stream(), ops(), problem, inputs, dtype, layout);
    const AttentionOutputs outputs = device.forward();
    expect_close(outputs.out, dtype, reference.out, twin.out, "out");
    expect_close_lse(outputs.lse, reference.lse, twin.lse);
    if (simulated()) expect_equal(device.forward().out, outputs.out, "out again");
  };
  for (DType dtype : kFloats) {
    for (int group : {1, 2, 3, 4, 5, 7, 8}) {
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

// A token that is generated does not depend on who else is generated for.
TEST_P(AttentionTest, DecodeBatchChangesNoBits) {
  for (DType dtype : kFloats) {
    Random random(24);
    const std::vector<int> keys = {700, 300, 129, 40};
    const AttentionProblem together = with_scale({.query_lengths = {1, 1, 1, 1},
                                                  .key_lengths = keys,
                                                  .num_heads = 4,
                                                  .num_kv_heads = 2,
                                                  .head_dim = 40});
    const AttentionInputs inputs = random_inputs(together, dtype, random);
    const Values out = Device(stream(), ops(), together, inputs, dtype).forward().out;
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
        expect_equal(Device(stream(), ops(), alone, own, dtype).forward().out,
                     slice(out, q_at, q_count), "out");
      }
      q_at += q_count;
      k_at += k_count;
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
    Device device(stream(), ops(), problem, inputs, DType::f32);
    const AttentionOutputs outputs = device.forward();
    expect_close_lse(outputs.lse, reference.lse, twin.lse);
    for (size_t i = 0; i < outputs.out.size(); ++i) {
      ASSERT_NEAR(outputs.out[i], reference.out[i], 3e-4);  // 24 bits of a score of 400: 3e-5
    }
  }
}

// One key per query with small integers: P is exactly 1, so outputs and gradients are exact.
TEST_P(AttentionTest, ExactWhenEachQuerySeesOneKey) {
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
    Device device(stream(), ops(), problem, inputs, dtype);
    expect_equal(device.forward().out, reference.out, "out");
    expect_equal(device.backward(d_out).d_v, d_reference.d_v, "d_v");
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
      Device device(stream(), ops(), problem, inputs, dtype);
      EXPECT_TRUE(std::isnan(device.forward().out[5]));
    }
  }
}

Bytes bytes_of_values(std::initializer_list<const Values*> arrays) {
  Bytes bytes;
  for (const Values* values : arrays) {
    const auto* const data = reinterpret_cast<const std::byte*>(values->data());
    bytes.insert(bytes.end(), data, data + values->size() * sizeof(double));
  }
  return bytes;
}

Bytes forward_and_backward(Device& device, const Values& d_out) {
  const AttentionOutputs outputs = device.forward();
  const AttentionGradients gradients = device.backward(d_out);
  return bytes_of_values({&outputs.out, &outputs.lse, &gradients.d_q, &gradients.d_k,
                          &gradients.d_v, &gradients.d_bias});
}

TEST_P(AttentionTest, SameBitsOnAnyThreadCount) {
  // On the CPU long enough for several parts of the queries.
  const int longest = simulated() ? 150 : 600;
  const AttentionProblem problem = with_scale({.query_lengths = {longest, 3, 0, 130, 1, 64},
                                               .key_lengths = {longest, 90, 0, 130, 1, 70},
                                               .num_heads = 4,
                                               .num_kv_heads = 2,
                                               .head_dim = 24,
                                               .distance_count = 700,
                                               .distance_offset = 699,
                                               .dropout_p = 0.1,
                                               .dropout_seed = 3});
  for (DType dtype : kFloats) {
    Random random(19);
    const AttentionInputs inputs = random_inputs(problem, dtype, random);
    const Values d_out = random.normal(problem.query_values(), dtype);
    Device device(stream(), ops(), problem, inputs, dtype);
    const auto body = [&] { return forward_and_backward(device, d_out); };
    expect_same_on_any_thread_count(body);
    expect_repeatable(body);
  }
}

// A packed batch gives each sequence the bits that it has alone. (Not with dropout, whose index is
// the token's place in the batch.)
TEST_P(AttentionTest, PackingChangesNoBits) {
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
    Device all(stream(), ops(), packed, inputs, dtype);
    const AttentionOutputs outputs = all.forward();
    const AttentionGradients gradients = all.backward(d_out);
    int64_t q_at = 0, k_at = 0;
    for (size_t s = 0; s < queries.size(); ++s) {
      const AttentionProblem alone = problem_of({queries[s]}, {keys[s]});
      const auto slice = [](const Values& from, int64_t at, int64_t count) {
        return Values(from.begin() + at, from.begin() + at + count);
      };
      const int64_t q_count = alone.query_values(), k_count = alone.key_values();
      Device device(stream(), ops(), alone,
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

// The contract's dropout is a mask on P: with v = 1 the output is the mean of what was kept.
TEST_P(AttentionTest, DropoutKeepsTheExpectation) {
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
  Device device(stream(), ops(), problem, inputs, DType::f32);
  const Values out = device.forward().out;
  const double mean = std::accumulate(out.begin(), out.end(), 0.0) / out.size();
  // 262144 draws of variance p/(1-p) = 0.25, weights uneven by a factor below 3: deviation < 2e-3
  EXPECT_NEAR(mean, 1.0, 8e-3);
}

TEST_P(AttentionTest, WorkspaceDependsOnShapesAlone) {
  AttentionShape shape = {.num_sequences = 4,
                          .total_q = 2048,
                          .total_k = 2048,
                          .max_seqlen_q = 512,
                          .max_seqlen_k = 512,
                          .num_heads = 12,
                          .num_kv_heads = 12,
                          .head_dim = 64};
  const Operations& plan = operations({.device = DeviceType::meta, .planned = GetParam()});
  for (const int longest : {512, 2048}) {
    shape.max_seqlen_q = shape.max_seqlen_k = longest;
    const size_t bytes = ops().attention_backward_workspace(shape);
    EXPECT_EQ(bytes, plan.attention_backward_workspace(shape));
    EXPECT_EQ(ops().attention_forward_workspace(shape), plan.attention_forward_workspace(shape));
    // The CPU keeps the sums of short sequences in cache.
    if (GetParam() == DeviceType::cpu) {
      EXPECT_EQ(bytes > 0, longest > 512);
    }
    // The number of sequences plays no part: a plan made for thousands of short ones must not be
    // larger.
    shape.num_sequences = 2048;
    EXPECT_EQ(bytes, ops().attention_backward_workspace(shape));
  }
}

// What the software GPU counts: no tile is computed that no query sees, shared memory is read
// without conflicts, device memory in whole sectors.
TEST_P(AttentionTest, DoesNoMoreThanItMust) {
  if (!simulated()) return;
  // Lanes in order: the accesses of a warp can be put together only so.
  const simt::Schedule before = simt::current_schedule();
  simt::set_schedule({});
  const int length = 300;
  // Pairs of a query and a key in tiles of rows x columns that hold a visible pair.
  const auto pairs = [=](int window, int rows, int columns) {
    double sum = 0;
    for (int row = 0; row < length; row += rows) {
      const int last = std::min(row + rows, length) - 1;
      for (int column = 0; column < length; column += columns) {
        const bool after = column > last;
        const bool before = window > 0 && column + columns - 1 <= row - window;
        if (!after && !before) sum += rows * columns;
      }
    }
    return sum;
  };
  for (DType dtype : kFloats) {
    for (int dim : {32, 64, 96, 128, 256}) {
      if (dtype == DType::f32 && dim != 64) continue;
      for (int window : {0, 65}) {
        SCOPED_TRACE(std::string(name_of(dtype)) + " head_dim " + std::to_string(dim) + " window " +
                     std::to_string(window));
        const AttentionProblem problem = with_scale({.query_lengths = {length},
                                                     .key_lengths = {length},
                                                     .num_heads = 2,
                                                     .num_kv_heads = 1,
                                                     .head_dim = dim,
                                                     .window = window});
        Random random(25);
        const AttentionInputs inputs = random_inputs(problem, dtype, random);
        const Values d_out = random.normal(problem.query_values(), dtype);
        Device device(stream(), ops(), problem, inputs, dtype, Layout::kAligned);
        simt::start_counting();
        device.forward();
        device.backward(d_out);
        const auto counted = simt::stop_counting();
        for (const auto& [kernel, work] : counted) {
          EXPECT_LT(work.shared_conflicts(), 1.05) << kernel;
          // lse and D are four bytes per row, beside rows of 64 bytes and more
          EXPECT_GT(work.global_efficiency(), 0.85) << kernel;
        }
        if (dtype == DType::f32) continue;
        // Two products forward; three for d_q; four for d_k and d_v, or five in two passes.
        const bool large = dim > 128;
        const double product = 2.0 * dim * problem.num_heads;
        const auto flops = [&](const char* kernel) {
          return static_cast<double>(counted.at(kernel).tensor_flops);
        };
        EXPECT_EQ(flops("attention_forward"), 2 * product * pairs(window, large ? 64 : 128, 64));
        const double queries = large       ? pairs(window, 64, 32)
                               : dim == 32 ? pairs(window, 128, 64)
                                           : pairs(window, 128, 32);
        EXPECT_EQ(flops("attention_backward_queries"), 3 * product * queries);
        const double keys = large       ? 5 * pairs(window, 32, 64)
                            : dim == 32 ? 4 * pairs(window, 64, 128)
                            : dim == 64 ? 4 * pairs(window, 32, 128)
                                        : 4 * pairs(window, 64, 64);
        EXPECT_EQ(flops("attention_backward_keys"), product * keys);
      }
    }
  }
  simt::set_schedule(before);
}

TEST_P(AttentionTest, RefusesShapesThatItCannotDo) {
  AttentionForward arguments = {.shape = {.num_heads = 3, .num_kv_heads = 2, .head_dim = 8}};
  EXPECT_THROW(ops().attention_forward(stream(), arguments), std::logic_error);
  arguments.shape = {.num_heads = 2, .num_kv_heads = 2, .head_dim = 257};
  EXPECT_THROW(ops().attention_forward(stream(), arguments), std::logic_error);
}

}  // namespace
}  // namespace engine::kernels::testing
