// engine bench train: what it prints.
#include <fmt/format.h>
#include <omp.h>

#include <nlohmann/json.hpp>

#include "engine/core/error.h"
#include "engine/profile/step_report.h"
#include "models/registry.h"
#include "tools/bench.h"
#include "tools/command_line.h"
#include "tools/precision.h"

namespace engine {
namespace {

using nlohmann::ordered_json;

double giga(double value) {
  return value / 1e9;
}

double gibi(size_t bytes) {
  return static_cast<double>(bytes) / (1 << 30);
}

RecomputePolicy parse_recompute(const std::string& name) {
  if (name == "none") return RecomputePolicy::none;
  if (name == "norms") return RecomputePolicy::norms;
  if (name == "block") return RecomputePolicy::block;
  throw Error(ExitCode::usage, "CLI-USAGE", "--recompute cannot be " + name)
      .expected("none, norms or block");
}

ordered_json times_json(const StepTimes& t) {
  return {{"total", t.total},       {"data", t.data}, {"forward", t.forward}, {"head", t.head},
          {"backward", t.backward}, {"norm", t.norm}, {"adamw", t.adamw},     {"cpu", t.cpu}};
}

ordered_json graphs_json(const StepBenchmark& b) {
  if (!b.graphs) return nullptr;
  const Timing called = timing_of(b.graphs->called), replayed = timing_of(b.graphs->replayed);
  return {{"called_seconds_median", called.median},
          {"called_seconds_min", called.minimum},
          {"replayed_seconds_median", replayed.median},
          {"replayed_seconds_min", replayed.minimum},
          {"replays", b.graphs->replays}};
}

ordered_json train_json(const StepReport& report, const BenchTrainOptions& options,
                        const BenchModel& model) {
  const StepBenchmark& b = report.bench;
  const Timing total = b.total();
  ordered_json steps = ordered_json::array();
  std::vector<double> cpu;
  for (const StepTimes& step : b.steps) {
    steps.push_back(times_json(step));
    cpu.push_back(step.cpu);
  }
  return {{"program", version_text()},
          {"model", model.name},
          {"config", model.config()},
          {"precision", options.precision},
          {"batch", options.batch},
          {"length", options.length},
          {"device", report.device},
          {"threads", omp_get_max_threads()},
          {"num_params", b.num_params},
          {"tokens_per_step", b.tokens},
          {"step_seconds_median", total.median},
          {"step_seconds_min", total.minimum},
          {"step_cpu_seconds_median", timing_of(cpu).median},
          {"tokens_per_second_median", report.tokens_per_second(total.median)},
          {"tokens_per_second_max", report.tokens_per_second(total.minimum)},
          {"median_step", times_json(b.median_step())},
          {"steps", steps},
          {"step_flops", b.flops},
          {"step_flops_palm", b.flops_palm},
          {"matmul_peak_flops", report.peak_flops},
          {"mfu_median", report.mfu(total.median)},
          {"mfu_best", report.mfu(total.minimum)},
          {"memory_copy_bytes_per_second", report.memory.copy},
          {"memory_update_bytes_per_second", report.memory.update},
          {"adamw_bytes_per_second", report.adamw_rate()},
          {"planned_bytes", b.plan.total()},
          {"arena_planned_bytes", b.plan.arena},
          {"arena_peak_bytes", b.arena_peak},
          {"arena_unplanned_bytes", b.unplanned_peak},
          {"resident_before_bytes", b.resident_before},
          {"resident_peak_bytes", b.resident_peak},
          {"first_loss", b.first_loss},
          {"last_loss", b.last_loss},
          {"cuda_graph", graphs_json(b)},
          {"load_average", report.load}};
}

void print_graphs(const StepReport& report) {
  if (!report.bench.graphs) {
    fmt::print("graph   {} records nothing: operations run as they are called\n", report.device);
    return;
  }
  const GraphComparison& graphs = *report.bench.graphs;
  const Timing called = timing_of(graphs.called), replayed = timing_of(graphs.replayed);
  fmt::print(
      "graph   {:.2f} ms called, {:.2f} ms replayed (medians of {}, {} replays): {:+.2f} ms, "
      "{:+.1f} "
      "%; least {:.2f} and {:.2f} ms\n",
      1e3 * called.median, 1e3 * replayed.median, called.runs, graphs.replays,
      1e3 * (replayed.median - called.median), 100 * (replayed.median / called.median - 1),
      1e3 * called.minimum, 1e3 * replayed.minimum);
}

void print_train(const StepReport& report, const BenchTrainOptions& options,
                 const BenchModel& model) {
  const StepBenchmark& b = report.bench;
  const Timing total = b.total();
  // Of an encoder-decoder model there are as many tokens of source as of target.
  const bool pairs = b.tokens == 2 * options.batch * options.length;
  fmt::print("{}  {:.1f}M parameters, batch {} x {}{}, {}, {}, {} threads\n", model.name,
             static_cast<double>(b.num_params) / 1e6, options.batch, options.length,
             pairs ? fmt::format(" + {}", options.length) : "", options.precision, report.device,
             omp_get_max_threads());
  fmt::print("step    {:.3f} s median, {:.3f} s least of {}   {:.0f} tok/s median, {:.0f} best\n",
             total.median, total.minimum, total.runs, report.tokens_per_second(total.median),
             report.tokens_per_second(total.minimum));
  const StepTimes t = b.median_step();
  fmt::print("cpu     {:.3f} s of processor time, {:.0f} % of {} threads for that long\n", t.cpu,
             100 * t.cpu / t.total / omp_get_max_threads(), omp_get_max_threads());
  const auto part = [&](const char* name, double seconds) {
    return fmt::format("{} {:.3f} s ({:.0f} %)", name, seconds, 100 * seconds / t.total);
  };
  fmt::print("split   {}, {}, {}, {}, {}, {}\n", part("forward", t.forward),
             part("head and loss", t.head), part("backward", t.backward), part("norm", t.norm),
             part("AdamW", t.adamw), part("data", t.data));
  fmt::print(
      "flops   {:.1f} GFLOP a step ({:.1f} with causal attention in full), {:.0f} GFLOP/s median, "
      "MFU {:.1f} % median, {:.1f} % best of {:.0f} GFLOP/s, {}\n",
      giga(b.flops), giga(b.flops_palm), giga(b.flops / total.median),
      100 * report.mfu(total.median), 100 * report.mfu(total.minimum), giga(report.peak_flops),
      report.datasheet ? "the datasheet's dense rate" : "which a large matmul reaches here");
  fmt::print("AdamW   {:.1f} GB/s best, {:.0f} % of the {:.1f} GB/s of memory\n",
             giga(report.adamw_rate()), 100 * report.adamw_rate() / report.memory.best(),
             giga(report.memory.best()));
  fmt::print("memory  planned {:.2f} GiB ({})\n", gibi(b.plan.total()), describe(b.plan));
  fmt::print("        arena {:.2f} of {:.2f} GiB used, resident set at most {:.2f} GiB\n",
             gibi(b.arena_peak), gibi(b.plan.arena), gibi(b.resident_peak));
  fmt::print("loss    {:.4f} at first, {:.4f} at last (random tokens)\n", b.first_loss,
             b.last_loss);
  if (options.cuda_graph) print_graphs(report);
  fmt::print("load    {:.1f} (1-minute average)\n", report.load);
}

}  // namespace

void bench_train(BenchTrainOptions options, const kernels::Stream& device) {
  const BenchModel model = options.find();
  const ordered_json config = model.config();
  const ModelFactory make = [&] { return make_model(config, model.name); };
  if (make()->info().task != Task::causal_lm) {
    throw Error(ExitCode::usage, "BENCH-MODEL", model.name + " is not a language model")
        .expected("an architecture ...ForCausalLM, ...LMHeadModel or ...ForConditionalGeneration");
  }
  const StepReport report = report_step({.make_model = make,
                                         .device = device,
                                         .precision = parse_precision(options.precision),
                                         .recompute = parse_recompute(options.recompute),
                                         .batch = options.batch,
                                         .length = options.length,
                                         .warmup = options.warmup,
                                         .steps = options.steps,
                                         .compare_graphs = options.cuda_graph});
  if (options.json) {
    fmt::print("{}\n", train_json(report, options, model).dump());
  } else {
    print_train(report, options, model);
  }
}

}  // namespace engine
