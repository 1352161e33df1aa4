#include "engine/profile/step_benchmark.h"

#include <time.h>

#include <algorithm>
#include <chrono>
#include <random>

#include "engine/core/device.h"
#include "engine/optim/adamw.h"
#include "engine/step/step_graphs.h"
#include "engine/train/report/flops.h"

namespace engine {
namespace {

using Clock = std::chrono::steady_clock;

// Seconds since `start`, which moves to now.
double lap(Clock::time_point& start) {
  const auto now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - start).count();
  start = now;
  return seconds;
}

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

constexpr float kMaxNorm = 1.0f;

// What a step works on.
struct Bench {
  const StepBenchmarkOptions& options;
  Runtime& runtime;
  Model& model;
  AdamW& optimizer;
  double lr;

  Batch batch(int step) const {
    const ModelInfo& info = model.info();
    const uint64_t seed = options.seed + static_cast<uint64_t>(step);
    return info.encoder_decoder
               ? random_pairs(options.batch, options.length, info, seed)
               : random_batch(options.batch, options.length, info.vocab_size, seed);
  }
  ForwardOptions forward(const Batch& batch) const {
    return {.graph = {.recompute = options.recompute, .precision = options.precision},
            .grad_scale = static_cast<float>(1.0 / static_cast<double>(batch.num_targets))};
  }
};

// Model FLOPs of a step, and the same with causal attention in full.
void count_flops(const Model& model, int64_t sequences, int64_t length, StepBenchmark& out) {
  const ModelInfo& info = model.info();
  const int64_t width = int64_t{info.num_heads} * info.head_dim;
  if (info.encoder_decoder) {
    const EncoderDecoderFlopsShape shape{.source_params = model.source_matmul_parameters(),
                                         .target_params = model.matmul_parameters(),
                                         .encoder_layers = info.num_encoder_layers,
                                         .decoder_layers = info.num_layers,
                                         .attention_width = width};
    const auto examples = static_cast<double>(sequences);
    out.flops = examples * example_flops(shape, length, length);
    // What the decoder's self-attention leaves out: the half above the diagonal.
    const double unseen = static_cast<double>(length) * static_cast<double>(length - 1) / 2;
    out.flops_palm = out.flops + examples * 12.0 * static_cast<double>(width) *
                                     static_cast<double>(info.num_layers) * unseen;
    return;
  }
  const FlopsShape shape{.matmul_params = model.matmul_parameters(),
                         .num_layers = info.num_layers,
                         .attention_width = width,
                         .sliding_windows = info.windows};
  const auto tokens = static_cast<double>(sequences * length);
  out.flops = tokens * flops_per_token(shape, length, FlopsConvention::exact);
  out.flops_palm = tokens * flops_per_token(shape, length, FlopsConvention::palm);
}

GraphComparison compare_graphs(const Bench& bench) {
  GraphComparison out;
  StepGraphs calls(bench.runtime, bench.model, false), recordings(bench.runtime, bench.model, true);
  const auto seconds_of = [&](StepGraphs& graphs, int step) {
    const Batch batch = bench.batch(step);
    bench.runtime.synchronize();
    auto mark = Clock::now();
    bench.optimizer.watch(graphs.run(batch, bench.forward(batch)).losses);
    bench.optimizer.update(kMaxNorm, bench.lr);
    bench.runtime.synchronize();
    return lap(mark);
  };
  // Until it is replayed: as often as a shape runs before it is recorded, and the recording itself.
  for (int i = 0; i <= StepGraphs::Limits().eager_runs; ++i) seconds_of(recordings, i);
  const int64_t before = recordings.counts().replayed;
  for (int i = 0; i < bench.options.steps; ++i) {
    out.called.push_back(seconds_of(calls, i));
    out.replayed.push_back(seconds_of(recordings, i));
  }
  out.replays = recordings.counts().replayed - before;
  return out;
}

}  // namespace

Timing StepBenchmark::total() const {
  std::vector<double> totals;
  for (const StepTimes& step : steps) totals.push_back(step.total);
  return timing_of(std::move(totals));
}

StepTimes StepBenchmark::median_step() const {
  std::vector<StepTimes> sorted = steps;
  std::sort(sorted.begin(), sorted.end(),
            [](const StepTimes& a, const StepTimes& b) { return a.total < b.total; });
  return sorted[(sorted.size() - 1) / 2];
}

Batch random_batch(int64_t sequences, int64_t length, int64_t vocab_size, uint64_t seed) {
  Batch batch;
  std::mt19937_64 generator(seed);
  batch.cu_seqlens.push_back(0);
  for (int64_t s = 0; s < sequences; ++s) {
    for (int64_t t = 0; t < length; ++t) {
      const auto id = static_cast<int32_t>(generator() % static_cast<uint64_t>(vocab_size));
      if (t > 0) batch.targets.push_back(id);
      batch.input_ids.push_back(id);
      batch.positions.push_back(static_cast<int32_t>(t));
    }
    batch.targets.push_back(kernels::kIgnoreIndex);
    batch.cu_seqlens.push_back(static_cast<int32_t>(batch.input_ids.size()));
    batch.rows.push_back(static_cast<uint32_t>(s));
    batch.labels.push_back(-1);
  }
  batch.max_seqlen = static_cast<int32_t>(length);
  batch.num_targets = sequences * (length - 1);
  return batch;
}

Batch random_pairs(int64_t sequences, int64_t length, const ModelInfo& info, uint64_t seed) {
  Batch batch;
  std::mt19937_64 generator(seed);
  const auto random_ids = [&] {
    std::vector<int32_t> ids(static_cast<size_t>(length));
    for (int32_t& id : ids) {
      id = static_cast<int32_t>(generator() % static_cast<uint64_t>(info.vocab_size));
    }
    return ids;
  };
  for (int64_t s = 0; s < sequences; ++s) {
    const std::vector<int32_t> source = random_ids(), labels = random_ids();
    append_pair(batch, source, shift_right(labels, info.decoder_start_id, *pair_pad_id(info)),
                labels);
    batch.rows.push_back(static_cast<uint32_t>(s));
    batch.labels.push_back(-1);
  }
  return batch;
}

StepBenchmark benchmark_step(const StepBenchmarkOptions& options) {
  StepBenchmark out;
  BatchShape step{.tokens = options.batch * options.length,
                  .sequences = options.batch,
                  .longest = options.length};
  if (options.make_model()->info().encoder_decoder) {
    step.source_tokens = step.tokens;
    step.source_longest = step.longest;
  }
  out.tokens = step.tokens + step.source_tokens;
  out.resident_before = peak_resident_memory();
  const bool compare = options.compare_graphs && kernels::operations(options.device).can_record;
  const OptimizerConfig optimizer_config{.lr = 1e-4, .weight_decay = 0.01};
  const TrainingShape shape{.precision = options.precision,
                            .recompute = options.recompute,
                            .train = step,
                            .max_positions = options.length,
                            .optimizer = optimizer_config,
                            .step_graphs = compare,
                            .device = options.device.device};
  out.plan = plan_training(options.make_model, shape);
  Runtime runtime(options.device);
  require_plan_fits(out.plan, available_memory(runtime.stream()), memory_source(options.device),
                    options.make_model, shape);

  const std::unique_ptr<Model> model = options.make_model();
  model->parameters().allocate(runtime, options.precision, ParameterSet::Purpose::training);
  model->parameters().initialize(runtime, options.seed);
  model->prepare(runtime, options.length);
  AdamW optimizer(runtime, model->parameters(), optimizer_config);
  runtime.memory().reserve_arena(out.plan.arena);

  out.num_params = model->parameters().count();
  out.matmul_params = model->matmul_parameters();
  count_flops(*model, options.batch, options.length, out);

  const Bench bench{options, runtime, *model, optimizer, optimizer_config.lr};
  for (int i = 0; i < options.warmup + options.steps; ++i) {
    StepTimes times;
    auto mark = Clock::now();
    const auto start = mark;
    const double cpu = cpu_seconds();
    const Batch batch = bench.batch(i);
    times.data = lap(mark);
    BatchTimes parts;
    ForwardOptions forward = bench.forward(batch);
    forward.times = &parts;
    double loss = 0;
    {
      const BatchLoss result = run_batch(runtime, *model, batch, forward);
      loss = sum_losses(runtime.download(result.losses)) / static_cast<double>(batch.num_targets);
    }
    times.forward = parts.forward;
    times.head = parts.head;
    times.backward = parts.backward;
    lap(mark);
    optimizer.measure(kMaxNorm);
    times.norm = lap(mark);
    optimizer.step(optimizer_config.lr);
    runtime.ops().synchronize(runtime.stream());
    times.adamw = lap(mark);
    times.total = std::chrono::duration<double>(mark - start).count();
    times.cpu = cpu_seconds() - cpu;
    if (i == 0) out.first_loss = loss;
    out.last_loss = loss;
    if (i >= options.warmup) out.steps.push_back(times);
  }
  if (compare) out.graphs = compare_graphs(bench);
  out.arena_peak = runtime.memory().arena_peak();
  out.unplanned_peak = runtime.memory().unplanned_peak();
  out.resident_peak = peak_resident_memory();
  return out;
}

}  // namespace engine
