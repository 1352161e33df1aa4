// Attention, and the steps that lead to it.
#include <fmt/format.h>

#include "engine/profile/cases.h"
#include "kernels/api/attention_variants.h"

namespace engine {

void Cases::attention() {
  const KernelShapes s = s_;
  const DType dtype = dtype_;
  const int64_t q_width = int64_t{s.num_heads} * s.head_dim;
  const int64_t kv_width = int64_t{s.num_kv_heads} * s.head_dim;
  const int64_t tokens = s.tokens(), stride = q_width + 2 * kv_width;
  // causal: query q sees q + 1 keys; two products forward, five backward (S again)
  const double product = 2.0 * static_cast<double>(s.sequences) * static_cast<double>(q_width) *
                         static_cast<double>(s.length) * static_cast<double>(s.length + 1) / 2.0;
  const auto qkv = static_cast<double>(tokens * stride),
             out = static_cast<double>(tokens * q_width);
  std::string shape =
      fmt::format("{} x {}, {} heads of {}", s.sequences, s.length, s.num_heads, s.head_dim);
  if (s.num_kv_heads != s.num_heads) shape += fmt::format(", {} kv", s.num_kv_heads);
  const auto make = [=](Buffers& b) -> kernels::AttentionForward {
    const int32_t* cu = b.integers(s.sequences + 1, [&](int64_t i) { return i * s.length; });
    const kernels::AttentionShape shape{.num_sequences = static_cast<int>(s.sequences),
                                        .cu_seqlens_q = cu,
                                        .cu_seqlens_k = cu,
                                        .total_q = tokens,
                                        .total_k = tokens,
                                        .max_seqlen_q = static_cast<int>(s.length),
                                        .max_seqlen_k = static_cast<int>(s.length),
                                        .num_heads = s.num_heads,
                                        .num_kv_heads = s.num_kv_heads,
                                        .head_dim = s.head_dim,
                                        .scale = 0.125f,
                                        .dtype = dtype};
    char* const x = b.values<char>(tokens * stride, dtype);
    const auto bytes = static_cast<int64_t>(kernels::size_of(dtype));
    return kernels::AttentionForward{
        .shape = shape,
        .q = x,
        .k = x + q_width * bytes,
        .v = x + (q_width + kv_width) * bytes,
        .q_stride = stride,
        .k_stride = stride,
        .v_stride = stride,
        .out = b.values(tokens * q_width, dtype),
        .lse = b.zero_floats(s.num_heads * tokens),
        .workspace = b.zeros(b.ops().attention_forward_workspace(shape))};
  };
  if (steps_only_) {
    for (const kernels::AttentionVariant& step : kernels::attention_variants(stream_.device)) {
      if (!step_.empty() && step_ != step.name) continue;
      add({"attention", step.name, shape, 2 * product, size_ * (qkv + out)}, [=](Buffers& b) {
        return [forward = step.forward, stream = b.stream(), arguments = make(b)] {
          forward(stream, arguments);
        };
      });
    }
    return;
  }
  add({"attention", "forward", shape, 2 * product, size_ * (qkv + out)},
      [=](Buffers& b) { return call<&kernels::Operations::attention_forward>(b, make(b)); });
  add({"attention", "backward", shape, 5 * product, size_ * (2 * qkv + 2 * out)}, [=](Buffers& b) {
    const kernels::AttentionForward f = make(b);
    b.ops().attention_forward(b.stream(), f);
    char* const d = b.values<char>(tokens * stride, dtype);
    const auto bytes = static_cast<int64_t>(kernels::size_of(dtype));
    const kernels::AttentionBackward arguments{
        .shape = f.shape,
        .q = f.q,
        .k = f.k,
        .v = f.v,
        .q_stride = stride,
        .k_stride = stride,
        .v_stride = stride,
        .out = f.out,
        .lse = f.lse,
        .d_out = b.values(tokens * q_width, dtype),
        .d_q = d,
        .d_k = d + q_width * bytes,
        .d_v = d + (q_width + kv_width) * bytes,
        .d_q_stride = stride,
        .d_k_stride = stride,
        .d_v_stride = stride,
        .workspace = b.zeros(b.ops().attention_backward_workspace(f.shape))};
    return call<&kernels::Operations::attention_backward>(b, arguments);
  });
}

std::vector<KernelCase> Cases::attention_steps(const std::string& step) {
  steps_only_ = true;
  step_ = step;
  attention();
  return std::move(cases_);
}

std::vector<KernelCase> attention_cases(const kernels::Stream& stream, const KernelShapes& shapes,
                                        DType dtype, const std::string& variant) {
  return Cases(stream, shapes, dtype, "").attention_steps(variant);
}

}  // namespace engine
