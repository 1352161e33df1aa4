// The products of a layer and the head, alone and with what is fused into them.
#include <fmt/format.h>

#include "engine/profile/cases.h"

namespace engine {

void Cases::matmuls() {
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

void Cases::linear(const std::string& name, int64_t out, int64_t in) {
  const int64_t tokens = s_.tokens();
  const bool in_out = s_.gpt2 && name != "head", tf32 = s_.tf32;
  const DType dtype = dtype_;
  const auto x = static_cast<double>(tokens * in), w = static_cast<double>(in * out),
             y = static_cast<double>(tokens * out);
  const double flops = 2.0 * static_cast<double>(tokens) * w;
  const std::string shape = fmt::format("{} x {} x {}", tokens, out, in);
  add({"matmul", name + " Y", shape, flops, size_ * (x + w + y)}, [=](Buffers& b) {
    return call<&kernels::Operations::matmul>(b, kernels::Matmul{.a = b.values(tokens * in, dtype),
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
    return call<&kernels::Operations::matmul>(b, kernels::Matmul{.a = b.values(tokens * out, dtype),
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

void Cases::fused_matmuls() {
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

void Cases::fused(const std::string& name, int64_t out, int64_t in,
                  kernels::MatmulEpilogue::Kind kind) {
  using Kind = kernels::MatmulEpilogue::Kind;
  const int64_t tokens = s_.tokens();
  const bool gated = !s_.gpt2, backward = kind == Kind::activation_gradient, tf32 = s_.tf32;
  const DType dtype = dtype_;
  // elements of a row of D; of the residual, of x that is kept, or of x that is read
  const int64_t beside = backward && gated ? 2 * out : out;
  const int64_t d = kind == Kind::activation && gated ? out / 2 : beside;
  const double bytes = size_ * static_cast<double>(tokens * in + in * out + tokens * (d + beside));
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

}  // namespace engine
