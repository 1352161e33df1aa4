// Time and memory of whole training steps: forward, head with loss, backward, global norm, AdamW.
// The code that runs is the trainer's (run_batch, AdamW); only the data is made up.
#pragma once

#include <optional>
#include <vector>

#include "engine/profile/timing.h"
#include "engine/step/memory_plan.h"

namespace engine {

struct StepBenchmarkOptions {
  ModelFactory make_model;
  kernels::Stream device;
  PrecisionPolicy precision;
  RecomputePolicy recompute = RecomputePolicy::none;
  // Sequences, and tokens of each; of an encoder-decoder model of each source and of each target.
  int64_t batch = 4, length = 512;
  int warmup = 1, steps = 5;
  uint64_t seed = 0;
  bool compare_graphs = false;  // StepBenchmark::graphs
};

// Seconds of one step and of its parts.
struct StepTimes {
  double total = 0;
  double data = 0;  // a batch of random tokens on the host
  double forward = 0, head = 0, backward = 0;
  double norm = 0, adamw = 0;
  double cpu = 0;  // processor time of all threads, which a busy machine lengthens much less
};

// Steps as the trainer queues them, with no wait between their parts, run in turns: their
// operations called one by one, and their micro-batch replayed from a recording (step_graphs.h).
struct GraphComparison {
  std::vector<double> called, replayed;  // seconds until the device is through with AdamW
  int64_t replays = 0;                   // that really were
};

struct StepBenchmark {
  std::vector<StepTimes> steps;  // without the warm-up
  int64_t tokens = 0;            // of one step, sources included
  int64_t num_params = 0, matmul_params = 0;
  double flops = 0;       // model FLOPs of a step, attention as computed (FlopsConvention::exact)
  double flops_palm = 0;  // the same without a discount for causality
  MemoryPlan plan;
  size_t arena_peak = 0, unplanned_peak = 0;
  size_t resident_before = 0;  // peak resident set before the model was made
  size_t resident_peak = 0;
  double first_loss = 0, last_loss = 0;   // per token; ln(vocab_size) at first
  std::optional<GraphComparison> graphs;  // where asked for, and the device records

  Timing total() const;
  // The step whose total is the median (the earlier one of two).
  StepTimes median_step() const;
};

// Random tokens, each sequence a document; the last token of each has no target.
Batch random_batch(int64_t sequences, int64_t length, int64_t vocab_size, uint64_t seed);

// For an encoder-decoder model: random sources and targets of `length` tokens each; every token of
// a target is predicted.
Batch random_pairs(int64_t sequences, int64_t length, const ModelInfo& info, uint64_t seed);

// Throws engine::Error MEM-PLAN (out_of_memory) when the plan exceeds the memory there is.
StepBenchmark benchmark_step(const StepBenchmarkOptions& options);

}  // namespace engine
