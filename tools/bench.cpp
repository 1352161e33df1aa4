// engine bench train | kernels | attention: figures to publish, next to what the machine could do
// at best.
#include "tools/bench.h"

#include <omp.h>

#include "engine/profile/kernel_cases.h"
#include "tools/command_line.h"
#include "tools/device.h"
#include "tools/verbs.h"

namespace engine {

void BenchOptions::add_to(CLI::App& app) {
  app.add_option("--model", model,
                 "gpt2-124m, llama-60m, llama-3.2-1b, llama-3.2-3b, "
                 "qwen2.5-1.5b, gemma-3-1b, t5-small, or the path of a config.json")
      ->capture_default_str();
  app.add_option("--batch", batch, "Sequences of a step (gpt2-124m 4, llama-60m 8)")
      ->check(CLI::PositiveNumber);
  app.add_option("--length", length, "Tokens of each (gpt2-124m 512, llama-60m 256)")
      ->check(CLI::PositiveNumber);
  app.add_option("--precision", precision, "fp32, tf32 or bf16")->capture_default_str();
  app.add_flag("--json", json, "As JSON");
}

BenchModel BenchOptions::find() {
  BenchModel found = find_bench_model(model);
  if (batch == 0) batch = found.batch;
  if (length == 0) length = found.length;
  return found;
}

void BenchTrainOptions::add_to(CLI::App& app) {
  BenchOptions::add_to(app);
  app.add_option("--recompute", recompute, "none, norms or block")->capture_default_str();
  app.add_option("--steps", steps, "Steps that count")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--warmup", warmup, "Steps before them")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app.add_flag("--cuda-graph", cuda_graph,
               "Also steps whose micro-batch is replayed, next to steps whose operations are "
               "called one by one");
}

void BenchKernelsOptions::add_to(CLI::App& app) {
  BenchOptions::add_to(app);
  app.add_option("--op", op, "One of them only")->check(CLI::IsMember(kernel_operations()));
}

void BenchAttentionOptions::add_to(CLI::App& app) {
  app.add_option("--batch", batch, "Sequences")->check(CLI::PositiveNumber);
  app.add_option("--length", length, "Tokens of each (cuda 4096, simt 128)")
      ->check(CLI::PositiveNumber);
  app.add_option("--heads", heads, "Query heads (cuda 16, simt 2)")->check(CLI::PositiveNumber);
  app.add_option("--kv-heads", kv_heads, "Key and value heads (as --heads)")
      ->check(CLI::PositiveNumber);
  app.add_option("--head-dim", head_dim, "Width of a head")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_option("--precision", precision, "fp32 or bf16")->capture_default_str();
  app.add_option("--variant", variant,
                 "One step only: three_pass, online, tiled, mma, wgmma (Hopper)");
  app.add_flag("--json", json, "As JSON");
}

ExitCode run_bench(Invocation& invocation) {
  if (invocation.global.threads > 0) omp_set_num_threads(invocation.global.threads);
  CLI::App app("Time and memory of training, against what the machine can do", "engine bench");
  app.require_subcommand(1);

  BenchTrainOptions train_options;
  CLI::App* const train = app.add_subcommand(
      "train", "Whole steps on random tokens: tokens/s, their parts, MFU, peak memory");
  train_options.add_to(*train);
  BenchKernelsOptions kernels_options;
  CLI::App* const kernels_verb = app.add_subcommand(
      "kernels", "Each operation of a step: time, floor, share of the machine's best");
  kernels_options.add_to(*kernels_verb);
  BenchAttentionOptions attention_options;
  CLI::App* const attention = app.add_subcommand(
      "attention", "The steps of docs/kernels.md, from the formula to the kernel that trains");
  attention_options.add_to(*attention);
  train_options.json = kernels_options.json = attention_options.json = invocation.global.json_log;

  std::string device_name = "auto";
  for (CLI::App* const verb : {train, kernels_verb, attention}) {
    add_device_option(*verb, device_name);
  }

  if (!parse_arguments(app, invocation)) return ExitCode::ok;
  const kernels::Stream device = device_of(device_name, invocation);
  if (train->parsed()) bench_train(train_options, device);
  if (kernels_verb->parsed()) bench_kernels(kernels_options, device);
  if (attention->parsed()) bench_attention(attention_options, device);
  return ExitCode::ok;
}

}  // namespace engine
