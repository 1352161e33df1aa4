// The subcommands of `engine bench`: their options, and what runs and prints each.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "engine/profile/bench_models.h"
#include "kernels/api/types.h"

namespace engine {

// The model and the shape of a step.
struct BenchOptions {
  std::string model = "gpt2-124m", precision = "fp32";
  int64_t batch = 0, length = 0;  // 0: the model's usual shape
  bool json = false;

  void add_to(CLI::App& app);
  // Fills batch and length.
  BenchModel find();
};

struct BenchTrainOptions : BenchOptions {
  std::string recompute = "none";
  int steps = 5, warmup = 1;
  bool cuda_graph = false;

  void add_to(CLI::App& app);
};
void bench_train(BenchTrainOptions options, const kernels::Stream& device);

struct BenchKernelsOptions : BenchOptions {
  std::string op;

  void add_to(CLI::App& app);
};
void bench_kernels(BenchKernelsOptions options, const kernels::Stream& device);

// Causal self-attention of one shape.
struct BenchAttentionOptions {
  int64_t batch = 1, length = 0;
  int heads = 0, kv_heads = 0, head_dim = 128;
  std::string precision = "bf16", variant;
  bool json = false;

  void add_to(CLI::App& app);
};
void bench_attention(BenchAttentionOptions options, const kernels::Stream& device);

}  // namespace engine
