#include "engine/profile/kernel_cases.h"

#include <fmt/format.h>

#include "engine/profile/case_buffers.h"
#include "kernels/api/attention_variants.h"
#include "kernels/api/operations.h"

namespace engine {
namespace {

// The cases of one model and one dtype.
class Cases {
 public:
  Cases(const kernels::Stream& stream, const KernelShapes& shapes, DType dtype, std::string only)
      : stream_(stream),
        s_(shapes),
        dtype_(dtype),
        size_(static_cast<double>(kernels::size_of(dtype))),
        only_(std::move(only)) {}

  std::vector<KernelCase> all() {
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

  std::vector<KernelCase> attention_steps(const std::string& step) {
    steps_only_ = true;
    step_ = step;
    attention();
    return std::move(cases_);
  }

 private:
  // `make` fills buffers and returns the call; it gets the buffers it may keep.
  template <typename Make>
  void add(KernelCase info, const Make& make) {
    if (!only_.empty() && info.op != only_) return;
    info.stream = stream_;
    info.prepare = [make, stream = stream_] {
      auto buffers = std::make_shared<Buffers>(stream);
      const std::function<void()> run = make(*buffers);
      return std::function<void()>([buffers, run] { run(); });
    };
    cases_.push_back(std::move(info));
  }

  void matmuls() {
    const int64_t attention = int64_t{s_.num_heads} * s_.head_dim;
    const int64_t qkv = attention + int64_t{2} * s_.num_kv_heads * s_.head_dim;
    const int64_t up = s_.gpt2 ? s_.intermediate : 2 * s_.intermediate;
    linear("qkv", qkv, s_.hidden);
    linear("attention out", s_.hidden, attention);
    linear(s_.gpt2 ? "up" : "gate, up", up, s_.hidden);
    linear("down", s_.hidden, s_.intermediate);
    linear("head", s_.vocab_size, s_.hidden);
    fused_matmuls();
  }

  // The three products of Y[tokens, out] = X[tokens, in] W. GPT-2 stores W as [in, out].
  void linear(const std::string& name, int64_t out, int64_t in) {
    const int64_t tokens = s_.tokens();
    const bool in_out = s_.gpt2 && name != "head", tf32 = s_.tf32;
    const DType dtype = dtype_;
    const auto x = static_cast<double>(tokens * in), w = static_cast<double>(in * out),
               y = static_cast<double>(tokens * out);
    const double flops = 2.0 * static_cast<double>(tokens) * w;
    const std::string shape = fmt::format("{} x {} x {}", tokens, out, in);
    add({"matmul", name + " Y", shape, flops, size_ * (x + w + y)}, [=](Buffers& b) {
      return call<&kernels::Operations::matmul>(b,
                                                kernels::Matmul{.a = b.values(tokens * in, dtype),
                                                                .b = b.values(in * out, dtype),
                                                                .d = b.values(tokens * out, dtype),
                                                                .m = tokens,
                                                                .n = out,
                                                                .k = in,
                                                                .transpose_b = !in_out,
                                                                .input_dtype = dtype,
                                                                .output_dtype = dtype,
                                                                .allow_tf32 = tf32});
    });
    add({"matmul", name + " dX", shape, flops, size_ * (x + w + y)}, [=](Buffers& b) {
      return call<&kernels::Operations::matmul>(b,
                                                kernels::Matmul{.a = b.values(tokens * out, dtype),
                                                                .b = b.values(in * out, dtype),
                                                                .d = b.values(tokens * in, dtype),
                                                                .m = tokens,
                                                                .n = in,
                                                                .k = out,
                                                                .transpose_b = in_out,
                                                                .input_dtype = dtype,
                                                                .output_dtype = dtype,
                                                                .allow_tf32 = tf32});
    });
    add({"matmul", name + " dW", shape, flops, size_ * (x + y) + 8.0 * w}, [=](Buffers& b) {
      const void* const inputs = b.values(tokens * in, dtype);
      const void* const gradients = b.values(tokens * out, dtype);
      kernels::Matmul product{.a = in_out ? inputs : gradients,
                              .b = in_out ? gradients : inputs,
                              .d = b.zero_floats(in * out),
                              .m = in_out ? in : out,
                              .n = in_out ? out : in,
                              .k = tokens,
                              .transpose_a = true,
                              .accumulate = true,
                              .input_dtype = dtype,
                              .output_dtype = DType::f32,
                              .allow_tf32 = tf32};
      product.workspace = b.zeros(b.ops().matmul_workspace(product));
      return call<&kernels::Operations::matmul>(b, product);
    });
  }

  // Products with the residual or the activation in their epilogue, as the layers use them.
  void fused_matmuls() {
    using Kind = kernels::MatmulEpilogue::Kind;
    const int64_t attention = int64_t{s_.num_heads} * s_.head_dim;
    const bool gated = !s_.gpt2;
    const std::string activation = gated ? "SwiGLU" : "GELU";
    fused("attention out Y, residual", s_.hidden, attention, Kind::add);
    fused(gated ? "gate, up Y, " + activation : "up Y, " + activation,
          gated ? 2 * s_.intermediate : s_.intermediate, s_.hidden, Kind::activation);
    fused("down Y, residual", s_.hidden, s_.intermediate, Kind::add);
    fused("down dX, " + activation + " gradient", s_.intermediate, s_.hidden,
          Kind::activation_gradient);
  }

  // [tokens, in] times a weight with `out` columns in the product.
  void fused(const std::string& name, int64_t out, int64_t in, kernels::MatmulEpilogue::Kind kind) {
    using Kind = kernels::MatmulEpilogue::Kind;
    const int64_t tokens = s_.tokens();
    const bool gated = !s_.gpt2, backward = kind == Kind::activation_gradient, tf32 = s_.tf32;
    const DType dtype = dtype_;
    // elements of a row of D; of the residual, of x that is kept, or of x that is read
    const int64_t beside = backward && gated ? 2 * out : out;
    const int64_t d = kind == Kind::activation && gated ? out / 2 : beside;
    const double bytes =
        size_ * static_cast<double>(tokens * in + in * out + tokens * (d + beside));
    add({"matmul", name, fmt::format("{} x {} x {}", tokens, out, in),
         2.0 * static_cast<double>(tokens * in) * static_cast<double>(out), bytes},
        [=](Buffers& b) {
          kernels::Matmul product{.a = b.values(tokens * in, dtype),
                                  .b = b.values(in * out, dtype),
                                  .d = b.values(tokens * d, dtype),
                                  .m = tokens,
                                  .n = out,
                                  .k = in,
                                  .transpose_b = gated != backward,  // GPT-2 stores W as [in, out]
                                  .input_dtype = dtype,
                                  .output_dtype = dtype,
                                  .allow_tf32 = tf32,
                                  .epilogue = {.kind = kind,
                                               .residual_dtype = dtype,
                                               .activation = gated ? kernels::Activation::silu
                                                                   : kernels::Activation::gelu_tanh,
                                               .gated = gated,
                                               .keep_x = kind == Kind::activation}};
          void* const other = b.values(tokens * beside, dtype);
          product.epilogue.residual = product.epilogue.x = other;
          product.workspace = b.zeros(b.ops().matmul_workspace(product));
          return call<&kernels::Operations::matmul>(b, product);
        });
  }

  void attention() {
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
    add({"attention", "backward", shape, 5 * product, size_ * (2 * qkv + 2 * out)},
        [=](Buffers& b) {
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

  void norms() {
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

  void activations() {
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

  void rope() {
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

  void embeddings() {
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

  // Head and loss, forward and backward in one: three products of the head.
  void cross_entropy() {
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

  void optimizer() {
    const int64_t count = s_.num_params;
    const bool copy = dtype_ == DType::bf16;
    const std::string shape = fmt::format("{} parameters", count);
    const auto segment = [=](Buffers& b, bool master = true) {
      return kernels::TensorSegment{
          .master = master ? b.zero_floats(count) : nullptr,
          .value_bf16 =
              copy ? static_cast<kernels::BFloat16*>(b.zeros(static_cast<size_t>(2 * count)))
                   : nullptr,
          .grad = b.zero_floats(count),
          .m = b.zero_floats(count),
          .v = b.zero_floats(count),
          .count = count,
          .weight_decay = 0.01f};
    };
    const auto table_of = [](Buffers& b, const kernels::TensorSegment& one) {
      void* const table = b.zeros(b.ops().optimizer_table_bytes(1));
      b.ops().make_optimizer_table(b.stream(),
                                   {.segments = &one, .num_segments = 1, .table = table});
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

  kernels::Stream stream_;
  KernelShapes s_;
  DType dtype_;
  double size_;
  std::string only_;
  bool steps_only_ = false;  // of attention: its steps instead of forward and backward
  std::string step_;
  std::vector<KernelCase> cases_;
};

}  // namespace

const std::vector<std::string>& kernel_operations() {
  static const std::vector<std::string> kNames = {
      "matmul", "attention", "norm", "activation", "rope", "embedding", "cross_entropy", "adamw"};
  return kNames;
}

std::vector<KernelCase> kernel_cases(const kernels::Stream& stream, const KernelShapes& shapes,
                                     DType dtype, const std::string& op) {
  return Cases(stream, shapes, dtype, op).all();
}

std::vector<KernelCase> attention_cases(const kernels::Stream& stream, const KernelShapes& shapes,
                                        DType dtype, const std::string& variant) {
  return Cases(stream, shapes, dtype, "").attention_steps(variant);
}

}  // namespace engine
