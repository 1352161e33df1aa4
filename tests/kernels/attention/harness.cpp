#include "tests/kernels/attention/harness.h"

#include <algorithm>
#include <numeric>

namespace engine::kernels::testing {
namespace {

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

// Where no query sees a second key, d_q and d_k are exactly zero, but kernels have two roundings of
// the same sum to subtract: sums of up to 256 products of a few units, in fp32.
void expect_close_gradient(const Values& actual, DType dtype, const Values& reference,
                           const Values& twin, const std::string& what) {
  const bool all_zero =
      std::all_of(reference.begin(), reference.end(), [](double x) { return x == 0; });
  if (!all_zero) return expect_close(actual, dtype, reference, twin, what);
  for (double value : actual) ASSERT_LT(std::abs(value), 1e-4) << what << " should vanish";
}

}  // namespace

AttentionInputs random_inputs(const AttentionProblem& problem, DType dtype, Random& random) {
  return {random.normal(problem.query_values(), dtype), random.normal(problem.key_values(), dtype),
          random.normal(problem.key_values(), dtype),
          random.normal(problem.bias_values(), DType::f32)};
}

AttentionProblem with_scale(AttentionProblem problem) {
  problem.scale = static_cast<float>(1.0 / std::sqrt(problem.head_dim));
  return problem;
}

AttentionOnDevice::AttentionOnDevice(Stream stream, const Operations& ops,
                                     const AttentionProblem& problem, const AttentionInputs& inputs,
                                     DType dtype, Layout layout)
    : stream_(stream), ops_(ops), problem_(problem), dtype_(dtype), layout_(layout) {
  const int64_t queries = int64_t{problem.num_heads} * problem.head_dim;
  const int64_t keys = int64_t{problem.num_kv_heads} * problem.head_dim;
  const auto integers = [&](const std::vector<int>& values) {
    return std::make_unique<DeviceArray>(stream, DType::i32, Values(values.begin(), values.end()));
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
  if (fused()) {
    const int64_t stride = queries + 2 * keys + (layout == Layout::kFused ? 3 : problem.head_dim);
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
      // Whole heads, for TMA; whole sectors.
      const int dim = problem.head_dim;
      const int64_t unused = dim % 8 != 0 ? 24 : dim < 16 ? 2 * dim : dim;
      slices_ = {Slice{queries, queries + unused, 16}, Slice{keys, keys + unused, 16},
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

bool AttentionOnDevice::fits_wgmma() const {
  const bool aligned = layout_ == Layout::kAligned || layout_ == Layout::kFusedAligned;
  return stream_.device != DeviceType::cpu && ops_.device_info(stream_).compute_capability == 90 &&
         dtype_ == DType::bf16 && aligned && shape_.head_dim > 32 && shape_.head_dim <= 128 &&
         shape_.head_dim % 8 == 0 && shape_.distance_count == 0 && shape_.dropout_p == 0.0f &&
         shape_.total_k > 0 && !(shape_.max_seqlen_q <= 4 && shape_.max_seqlen_k > 128);
}

AttentionOutputs AttentionOnDevice::forward() {
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

AttentionGradients AttentionOnDevice::backward(const Values& d_out_values) {
  const DeviceArray d_out(stream_, dtype_, d_out_values);
  std::shared_ptr<DeviceArray> gradients[3];
  for (int i = 0; i < 3; ++i) {
    gradients[i] = fused() && i > 0
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
    Values& from = strided[fused() ? 0 : i];
    if (!fused() || i == 0) from = gradients[i]->values();
    dense[i] = take(from, slices_[i].columns, slices_[i].stride, slices_[i].column);
  }
  for (const Values& rest : strided) expect_all_nan(rest, "gradient");
  Values bias = d_bias.values();
  for (double& value : bias) value -= 1.0;
  return {dense[0], dense[1], dense[2], bias};
}

void expect_close_lse(Values actual, Values reference, Values twin) {
  ASSERT_EQ(actual.size(), reference.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(std::isinf(actual[i]) && actual[i] < 0, std::isinf(reference[i])) << "lse at " << i;
    if (std::isinf(reference[i])) actual[i] = reference[i] = twin[i] = 0;
  }
  expect_close(actual, DType::f32, reference, twin, "lse");
}

namespace {

struct Expected {
  AttentionInputs inputs;
  AttentionOutputs exact, twin;

  Expected(const AttentionProblem& problem, DType dtype, Random& random)
      : inputs(random_inputs(problem, dtype, random)),
        exact(reference_attention<double>(problem, inputs, no_rounding())),
        twin(reference_attention<float>(problem, inputs, rounding_to(dtype))) {}
};

void expect_forward(AttentionOnDevice& device, const Expected& expected, DType dtype) {
  const auto check = [&] {
    const AttentionOutputs outputs = device.forward();
    expect_close(outputs.out, dtype, expected.exact.out, expected.twin.out, "out");
    expect_close_lse(outputs.lse, expected.exact.lse, expected.twin.lse);
  };
  check();
  if (!device.fits_wgmma()) return;
  SCOPED_TRACE("by mma.sync");
  const WithAttention with(AttentionBackend::mma);
  check();
}

}  // namespace

void expect_forward_matches_reference(Stream stream, const Operations& ops,
                                      const AttentionProblem& problem, DType dtype, uint64_t seed,
                                      Layout layout) {
  Random random(seed);
  const Expected expected(problem, dtype, random);
  AttentionOnDevice device(stream, ops, problem, expected.inputs, dtype, layout);
  expect_forward(device, expected, dtype);
}

void expect_matches_reference(Stream stream, const Operations& ops, const AttentionProblem& problem,
                              DType dtype, uint64_t seed, Layout layout) {
  Random random(seed);
  const Expected expected(problem, dtype, random);
  const Values d_out = random.normal(problem.query_values(), dtype);
  const auto d_reference = reference_attention_backward<double>(
      problem, expected.inputs, expected.exact, d_out, no_rounding());
  const auto d_twin = reference_attention_backward<float>(problem, expected.inputs, expected.twin,
                                                          d_out, rounding_to(dtype));

  AttentionOnDevice device(stream, ops, problem, expected.inputs, dtype, layout);
  expect_forward(device, expected, dtype);
  const AttentionGradients gradients = device.backward(d_out);
  expect_close_gradient(gradients.d_q, dtype, d_reference.d_q, d_twin.d_q, "d_q");
  expect_close_gradient(gradients.d_k, dtype, d_reference.d_k, d_twin.d_k, "d_k");
  expect_close_gradient(gradients.d_v, dtype, d_reference.d_v, d_twin.d_v, "d_v");
  expect_close(gradients.d_bias, DType::f32, d_reference.d_bias, d_twin.d_bias, "d_distance_bias");
}

}  // namespace engine::kernels::testing
