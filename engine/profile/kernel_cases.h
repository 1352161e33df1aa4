// The operations that training steps are made of, at the shapes of a model, each with its floors.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/api/types.h"

namespace engine {

// Dimensions of a step.
struct KernelShapes {
  std::string name;   // "gpt2-124m"
  bool gpt2 = false;  // LayerNorm, learned positions, GELU; else RMSNorm, RoPE, SwiGLU
  int64_t sequences = 0, length = 0;
  int64_t hidden = 0, intermediate = 0, vocab_size = 0, num_params = 0;
  int num_heads = 0, num_kv_heads = 0, head_dim = 0;
  bool tf32 = false;  // fp32 products may round their inputs to TF32

  int64_t tokens() const { return sequences * length; }
};

struct KernelCase {
  std::string op;       // "matmul"
  std::string variant;  // "qkv dW"
  std::string shape;    // "2048 x 2304 x 768"
  double flops = 0;     // of one call; 0 where only bytes count
  double bytes = 0;     // read and written at least, each value once
  kernels::Stream stream;
  // Takes memory, then the returned function runs the operation once. Memory lives as long as it.
  std::function<std::function<void()>()> prepare;
};

// The names of all operations, for --op.
const std::vector<std::string>& kernel_operations();

// `op` is empty for all. bf16: inputs and outputs; sums, statistics and optimizer state are fp32.
std::vector<KernelCase> kernel_cases(const kernels::Stream& stream, const KernelShapes& shapes,
                                     kernels::DType dtype, const std::string& op);

// The forward of attention in the steps of kernels/api/attention_variants.h; `variant` is empty for
// all. None on the CPU.
std::vector<KernelCase> attention_cases(const kernels::Stream& stream, const KernelShapes& shapes,
                                        kernels::DType dtype, const std::string& variant);

}  // namespace engine
