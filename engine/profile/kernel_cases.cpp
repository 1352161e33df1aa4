#include "engine/profile/kernel_cases.h"

#include <fmt/format.h>

#include "engine/profile/cases.h"

namespace engine {

std::vector<KernelCase> Cases::all() {
  matmuls();
  attention();
  norms();
  activations();
  if (!s_.gpt2) rope();
  embeddings();
  cross_entropy();
  optimizer();
  return std::move(cases_);
}

void Cases::norms() {
  const int64_t tokens = s_.tokens(), hidden = s_.hidden;
  const DType dtype = dtype_;
  const auto kind = s_.gpt2 ? kernels::NormKind::layer_norm : kernels::NormKind::rms_llama;
  const bool layer_norm = s_.gpt2;
  const std::string shape = fmt::format("{} x {}", tokens, hidden);
  const auto n = static_cast<double>(tokens * hidden);
  // forward with the residual addition: x, delta in; residual, y out
  add({"norm", "add, forward", shape, 0, size_ * 4 * n}, [=](Buffers& b) {
    const kernels::NormForward arguments{.kind = kind,
                                         .tokens = tokens,
                                         .hidden = hidden,
                                         .x = b.values(tokens * hidden, dtype),
                                         .delta = b.values(tokens * hidden, dtype),
                                         .residual_out = b.values(tokens * hidden, dtype),
                                         .weight = b.values(hidden, dtype),
                                         .bias = layer_norm ? b.values(hidden, dtype) : nullptr,
                                         .y = b.values(tokens * hidden, dtype),
                                         .mean = b.zero_floats(tokens),
                                         .rstd = b.zero_floats(tokens),
                                         .compute_dtype = dtype,
                                         .residual_dtype = dtype};
    return call<&kernels::Operations::norm_forward>(b, arguments);
  });
  // backward: dy, d_residual, x in; dx out
  add({"norm", "backward", shape, 0, size_ * 4 * n}, [=](Buffers& b) {
    const size_t workspace = b.ops().norm_backward_workspace(tokens, hidden);
    const kernels::NormBackward arguments{.kind = kind,
                                          .tokens = tokens,
                                          .hidden = hidden,
                                          .dy = b.values(tokens * hidden, dtype),
                                          .d_residual = b.values(tokens * hidden, dtype),
                                          .x = b.values(tokens * hidden, dtype),
                                          .weight = b.values(hidden, dtype),
                                          .mean = b.zero_floats(tokens),
                                          .rstd = b.zero_floats(tokens),
                                          .dx = b.values(tokens * hidden, dtype),
                                          .d_weight = b.zero_floats(hidden),
                                          .d_bias = layer_norm ? b.zero_floats(hidden) : nullptr,
                                          .workspace = b.zeros(workspace),
                                          .compute_dtype = dtype,
                                          .residual_dtype = dtype};
    return call<&kernels::Operations::norm_backward>(b, arguments);
  });
}

void Cases::activations() {
  const bool gated = !s_.gpt2;
  const int64_t tokens = s_.tokens(), width = s_.intermediate, wide = gated ? 2 * width : width;
  const DType dtype = dtype_;
  const auto kind = s_.gpt2 ? kernels::Activation::gelu_tanh : kernels::Activation::silu;
  const std::string shape = fmt::format("{} x {}", tokens, width);
  const auto x = static_cast<double>(tokens * wide), y = static_cast<double>(tokens * width);
  const std::string name = s_.gpt2 ? "GELU" : "SwiGLU";
  add({"activation", name + " forward", shape, 0, size_ * (x + y)}, [=](Buffers& b) {
    const kernels::ActivationForward arguments{.kind = kind,
                                               .gated = gated,
                                               .tokens = tokens,
                                               .width = width,
                                               .x = b.values(tokens * wide, dtype),
                                               .y = b.values(tokens * width, dtype),
                                               .dtype = dtype};
    return call<&kernels::Operations::activation_forward>(b, arguments);
  });
  add({"activation", name + " backward", shape, 0, size_ * (2 * x + y)}, [=](Buffers& b) {
    const kernels::ActivationBackward arguments{.kind = kind,
                                                .gated = gated,
                                                .tokens = tokens,
                                                .width = width,
                                                .x = b.values(tokens * wide, dtype),
                                                .dy = b.values(tokens * width, dtype),
                                                .dx = b.values(tokens * wide, dtype),
                                                .dtype = dtype};
    return call<&kernels::Operations::activation_backward>(b, arguments);
  });
}

void Cases::rope() {
  const KernelShapes s = s_;
  const DType dtype = dtype_;
  const int64_t tokens = s.tokens(), heads = s.num_heads + s.num_kv_heads;
  const int64_t stride = (heads + s.num_kv_heads) * s.head_dim;
  const std::string shape = fmt::format("{} x {} heads of {}", tokens, heads, s.head_dim);
  add({"rope", "forward", shape, 0, size_ * 2 * static_cast<double>(tokens * heads * s.head_dim)},
      [=](Buffers& b) {
        const kernels::Rope arguments{
            .x = b.values(tokens * stride, dtype),
            .tokens = tokens,
            .stride = stride,
            .num_heads = static_cast<int>(heads),
            .head_dim = s.head_dim,
            .positions = b.integers(tokens, [&](int64_t t) { return t % s.length; }),
            .cos = b.values<float>(s.length * s.head_dim / 2, DType::f32),
            .sin = b.values<float>(s.length * s.head_dim / 2, DType::f32),
            .dtype = dtype};
        return call<&kernels::Operations::rope>(b, arguments);
      });
}

void Cases::embeddings() {
  const KernelShapes s = s_;
  const DType dtype = dtype_;
  const int64_t tokens = s.tokens();
  const std::string shape = fmt::format("{} of {} x {}", tokens, s.vocab_size, s.hidden);
  const auto n = static_cast<double>(tokens * s.hidden);
  const auto id = [s](int64_t t) { return (t * 7919) % s.vocab_size; };
  add({"embedding", "forward", shape, 0, size_ * 2 * n}, [=](Buffers& b) {
    const kernels::EmbeddingForward arguments{.tokens = tokens,
                                              .hidden = s.hidden,
                                              .ids = b.integers(tokens, id),
                                              .table = b.values(s.vocab_size * s.hidden, dtype),
                                              .out = b.values(tokens * s.hidden, dtype),
                                              .table_dtype = dtype,
                                              .output_dtype = dtype};
    return call<&kernels::Operations::embedding_forward>(b, arguments);
  });
  add({"embedding", "backward", shape, 0, (size_ + 8) * n}, [=](Buffers& b) {
    const size_t workspace =
        b.ops().embedding_backward_workspace(tokens, s.hidden, s.vocab_size, 0);
    const kernels::EmbeddingBackward arguments{.tokens = tokens,
                                               .hidden = s.hidden,
                                               .rows = s.vocab_size,
                                               .ids = b.integers(tokens, id),
                                               .d_out = b.values(tokens * s.hidden, dtype),
                                               .d_table = b.zero_floats(s.vocab_size * s.hidden),
                                               .workspace = b.zeros(workspace),
                                               .output_dtype = dtype};
    return call<&kernels::Operations::embedding_backward>(b, arguments);
  });
}

void Cases::cross_entropy() {
  const KernelShapes s = s_;
  const DType dtype = dtype_;
  const int64_t tokens = s.tokens();
  const auto h = static_cast<double>(s.hidden), v = static_cast<double>(s.vocab_size),
             t = static_cast<double>(tokens);
  add({"cross_entropy", "head and loss",
       fmt::format("{} x {} x {}", tokens, s.vocab_size, s.hidden), 6 * t * h * v,
       size_ * (2 * t * h + v * h) + 8 * v * h},
      [=](Buffers& b) {
        kernels::LinearCrossEntropy arguments{
            .tokens = tokens,
            .hidden_size = s.hidden,
            .vocab_size = s.vocab_size,
            .hidden = b.values(tokens * s.hidden, dtype),
            .weight = b.values(s.vocab_size * s.hidden, dtype),
            .targets = b.integers(tokens, [&](int64_t i) { return (i * 7919) % s.vocab_size; }),
            .losses = b.zero_floats(tokens),
            .d_hidden = b.values(tokens * s.hidden, dtype),
            .d_weight = b.zero_floats(s.vocab_size * s.hidden),
            .dtype = dtype,
            .allow_tf32 = s.tf32};
        arguments.workspace = b.zeros(b.ops().linear_cross_entropy_workspace(arguments));
        return call<&kernels::Operations::linear_cross_entropy>(b, arguments);
      });
}

void Cases::optimizer() {
  const int64_t count = s_.num_params;
  const bool copy = dtype_ == DType::bf16;
  const std::string shape = fmt::format("{} parameters", count);
  const auto segment = [=](Buffers& b, bool master = true) {
    return kernels::TensorSegment{.master = master ? b.zero_floats(count) : nullptr,
                                  .value_bf16 = copy ? static_cast<kernels::BFloat16*>(
                                                           b.zeros(static_cast<size_t>(2 * count)))
                                                     : nullptr,
                                  .grad = b.zero_floats(count),
                                  .m = b.zero_floats(count),
                                  .v = b.zero_floats(count),
                                  .count = count,
                                  .weight_decay = 0.01f};
  };
  const auto table_of = [](Buffers& b, const kernels::TensorSegment& one) {
    void* const table = b.zeros(b.ops().optimizer_table_bytes(1));
    b.ops().make_optimizer_table(b.stream(), {.segments = &one, .num_segments = 1, .table = table});
    return table;
  };
  const auto update = [=](bool master) {
    return [=](Buffers& b) {
      const kernels::TensorSegment parameters = segment(b, master);
      return [one = parameters, table = table_of(b, parameters), stream = b.stream()] {
        kernels::operations(stream).adamw(
            stream, {.segments = &one, .num_segments = 1, .table = table, .lr = 1e-4, .step = 1});
      };
    };
  };
  add({"adamw", "update, zero grad", shape, 0, (copy ? 34.0 : 32.0) * static_cast<double>(count)},
      update(true));
  if (copy) {
    add({"adamw", "update, stochastic rounding", shape, 0, 28.0 * static_cast<double>(count)},
        update(false));
  }
  add({"adamw", "global norm", shape, 0, 4.0 * static_cast<double>(count)}, [=](Buffers& b) {
    void* const workspace = b.zeros(b.ops().global_norm_workspace(count, 1));
    float* const out = b.zero_floats(2);
    const kernels::TensorSegment one{.grad = b.zero_floats(count), .count = count};
    return [one, out, workspace, table = table_of(b, one), stream = b.stream()] {
      kernels::operations(stream).global_norm(stream, {.segments = &one,
                                                       .num_segments = 1,
                                                       .table = table,
                                                       .max_norm = 1.0f,
                                                       .out = out,
                                                       .workspace = workspace});
    };
  });
}

const std::vector<std::string>& kernel_operations() {
  static const std::vector<std::string> kNames = {
      "matmul", "attention", "norm", "activation", "rope", "embedding", "cross_entropy", "adamw"};
  return kNames;
}

std::vector<KernelCase> kernel_cases(const kernels::Stream& stream, const KernelShapes& shapes,
                                     DType dtype, const std::string& op) {
  return Cases(stream, shapes, dtype, op).all();
}

}  // namespace engine
