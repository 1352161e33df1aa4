// engine bench train | kernels: figures to publish, next to what the machine could do at best.
#include <fmt/format.h>
#include <omp.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "engine/core/device.h"
#include "engine/profile/bench_models.h"
#include "engine/profile/kernel_benchmark.h"
#include "engine/profile/machine_rates.h"
#include "engine/profile/step_benchmark.h"
#include "kernels/api/attention_variants.h"
#include "models/registry.h"
#include "tools/command_line.h"
#include "tools/device.h"
#include "tools/precision.h"
#include "tools/verbs.h"

namespace engine {
namespace {

using nlohmann::ordered_json;

// What the subcommands share.
struct ModelOptions {
  std::string model = "gpt2-124m", precision = "fp32";
  int64_t batch = 0, length = 0;  // 0: the model's usual shape
  bool json = false;

  void add_to(CLI::App& app) {
    app.add_option("--model", model,
                   "gpt2-124m, llama-60m, llama-3.2-1b, llama-3.2-3b, "
                   "qwen2.5-1.5b, gemma-3-1b, or the path of a config.json")
        ->capture_default_str();
    app.add_option("--batch", batch, "Sequences of a step (gpt2-124m 4, llama-60m 8)")
        ->check(CLI::PositiveNumber);
    app.add_option("--length", length, "Tokens of each (gpt2-124m 512, llama-60m 256)")
        ->check(CLI::PositiveNumber);
    app.add_option("--precision", precision, "fp32, tf32 or bf16")->capture_default_str();
    app.add_flag("--json", json, "As JSON");
  }

  BenchModel find() {
    BenchModel found = find_bench_model(model);
    if (batch == 0) batch = found.batch;
    if (length == 0) length = found.length;
    return found;
  }
};

// 1-minute load average: what else ran on this machine.
double load_average() {
  double load = 0;
  return getloadavg(&load, 1) == 1 ? load : -1;
}

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

struct TrainReport {
  StepBenchmark bench;
  std::string device;      // "cpu", or the GPU's name
  double peak_flops = 0;   // what MFU is a share of
  bool datasheet = false;  // peak_flops is the maker's; else a large matmul's
  MemoryRates memory;
  double load = 0;
};

// Bytes AdamW and the global norm must move per parameter: kernels/cpu/optimizer.cpp.
double adamw_bytes(const TrainReport& report, const PrecisionPolicy& precision) {
  return (precision.compute == DType::bf16 ? 34.0 : 32.0) *
         static_cast<double>(report.bench.num_params);
}

ordered_json train_json(const TrainReport& report, const ModelOptions& options,
                        const BenchModel& model, const PrecisionPolicy& precision) {
  const StepBenchmark& b = report.bench;
  const Timing total = b.total();
  const auto tokens = static_cast<double>(b.tokens);
  ordered_json steps = ordered_json::array();
  double adamw = b.steps.front().adamw;
  std::vector<double> cpu;
  for (const StepTimes& step : b.steps) {
    steps.push_back(times_json(step));
    adamw = std::min(adamw, step.adamw);
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
          {"tokens_per_second_median", tokens / total.median},
          {"tokens_per_second_max", tokens / total.minimum},
          {"median_step", times_json(b.median_step())},
          {"steps", steps},
          {"step_flops", b.flops},
          {"step_flops_palm", b.flops_palm},
          {"matmul_peak_flops", report.peak_flops},
          {"mfu_median", b.flops / total.median / report.peak_flops},
          {"mfu_best", b.flops / total.minimum / report.peak_flops},
          {"memory_copy_bytes_per_second", report.memory.copy},
          {"memory_update_bytes_per_second", report.memory.update},
          {"adamw_bytes_per_second", adamw_bytes(report, precision) / adamw},
          {"planned_bytes", b.plan.total()},
          {"arena_planned_bytes", b.plan.arena},
          {"arena_peak_bytes", b.arena_peak},
          {"arena_unplanned_bytes", b.unplanned_peak},
          {"resident_before_bytes", b.resident_before},
          {"resident_peak_bytes", b.resident_peak},
          {"first_loss", b.first_loss},
          {"last_loss", b.last_loss},
          {"load_average", report.load}};
}

void print_train(const TrainReport& report, const ModelOptions& options, const BenchModel& model,
                 const PrecisionPolicy& precision) {
  const StepBenchmark& b = report.bench;
  const Timing total = b.total();
  const auto tokens = static_cast<double>(b.tokens);
  fmt::print("{}  {:.1f}M parameters, batch {} x {}, {}, {}, {} threads\n", model.name,
             static_cast<double>(b.num_params) / 1e6, options.batch, options.length,
             options.precision, report.device, omp_get_max_threads());
  fmt::print("step    {:.3f} s median, {:.3f} s least of {}   {:.0f} tok/s median, {:.0f} best\n",
             total.median, total.minimum, total.runs, tokens / total.median,
             tokens / total.minimum);
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
      100 * b.flops / total.median / report.peak_flops,
      100 * b.flops / total.minimum / report.peak_flops, giga(report.peak_flops),
      report.datasheet ? "the datasheet's dense rate" : "which a large matmul reaches here");
  double adamw = t.adamw;
  for (const StepTimes& step : b.steps) adamw = std::min(adamw, step.adamw);
  const double rate = adamw_bytes(report, precision) / adamw;
  const double most = std::max(report.memory.update, report.memory.copy);
  fmt::print("AdamW   {:.1f} GB/s best, {:.0f} % of the {:.1f} GB/s of memory\n", giga(rate),
             100 * rate / most, giga(most));
  fmt::print("memory  planned {:.2f} GiB ({})\n", gibi(b.plan.total()), describe(b.plan));
  fmt::print("        arena {:.2f} of {:.2f} GiB used, resident set at most {:.2f} GiB\n",
             gibi(b.arena_peak), gibi(b.plan.arena), gibi(b.resident_peak));
  fmt::print("loss    {:.4f} at first, {:.4f} at last (random tokens)\n", b.first_loss,
             b.last_loss);
  fmt::print("load    {:.1f} (1-minute average)\n", report.load);
}

void bench_train(ModelOptions options, const std::string& recompute, int steps, int warmup,
                 const kernels::Stream& device) {
  const BenchModel model = options.find();
  const ordered_json config = model.config();
  const PrecisionPolicy precision = parse_precision(options.precision);
  const ModelFactory make = [&] { return make_model(config, model.name); };
  if (const auto shape = make();
      shape->info().task != Task::causal_lm || shape->info().encoder_decoder) {
    throw Error(ExitCode::usage, "BENCH-MODEL", model.name + " is not a language model")
        .expected("an architecture ...ForCausalLM or ...LMHeadModel");
  }
  TrainReport report;
  report.bench = benchmark_step({.make_model = make,
                                 .device = device,
                                 .precision = precision,
                                 .recompute = parse_recompute(recompute),
                                 .batch = options.batch,
                                 .length = options.length,
                                 .warmup = warmup,
                                 .steps = steps});
  report.load = load_average();
  report.device = name_of(device);
  if (device.device == kernels::DeviceType::cuda) {
    report.device = kernels::operations(device).device_info(device).name;
    report.peak_flops = datasheet_flops(report.device, precision.compute);
    report.datasheet = report.peak_flops > 0;
    report.memory.copy = measure_device_copy(device);
  } else {
    report.memory = measure_memory();
  }
  if (!report.datasheet) {
    const bool simulated = device.device == kernels::DeviceType::simt;
    report.peak_flops =
        measure_matmul_flops(precision.compute, simulated ? 256 : 4096, device, precision.tf32);
  }
  if (options.json) {
    fmt::print("{}\n", train_json(report, options, model, precision).dump());
  } else {
    print_train(report, options, model, precision);
  }
}

// On the software GPU: no times, but what every kernel of an operation moves and multiplies.
void count_kernels(const std::vector<KernelCase>& cases, bool json) {
  ordered_json rows = ordered_json::array();
  if (!json) {
    fmt::print("{:<44}{:>7}{:>9}{:>10}{:>10}{:>10}{:>8}{:>10}{:>10}\n", "operation, kernel",
               "blocks", "floor MB", "read MB", "written", "used", "passes", "GFLOP", "special M");
  }
  for (const KernelCase& one : cases) {
    const auto work = count_kernel(one);
    if (!json) {
      fmt::print("{:<44}{:>7}{:>9.2f}{:>38}{:>10.3f}\n",
                 fmt::format("{} {} ({})", one.op, one.variant, one.shape), "", one.bytes / 1e6, "",
                 giga(one.flops));
    }
    for (const auto& [kernel, w] : work) {
      const auto read = static_cast<double>(32 * w.global_read_sectors + w.bulk_read_bytes);
      const auto written = static_cast<double>(32 * w.global_write_sectors + w.bulk_write_bytes);
      if (json) {
        rows.push_back({{"op", one.op},
                        {"variant", one.variant},
                        {"shape", one.shape},
                        {"floor_bytes", one.bytes},
                        {"floor_flops", one.flops},
                        {"kernel", kernel},
                        {"launches", w.launches},
                        {"blocks", w.blocks},
                        {"bytes_read", read},
                        {"bytes_written", written},
                        {"sector_efficiency", w.global_efficiency()},
                        {"shared_passes", w.shared_passes},
                        {"shared_passes_needed", w.shared_passes_needed},
                        {"tensor_flops", w.tensor_flops},
                        {"special_functions", w.special_functions}});
        continue;
      }
      fmt::print("{:<44}{:>7}{:>9}{:>10.2f}{:>10.2f}{:>8.0f} %{:>7.2f}x{:>10.3f}{:>10.3f}\n",
                 fmt::format("  {} x {}", kernel, w.launches), w.blocks, "", read / 1e6,
                 written / 1e6, 100 * w.global_efficiency(), w.shared_conflicts(),
                 giga(static_cast<double>(w.tensor_flops)),
                 static_cast<double>(w.special_functions) / 1e6);
    }
  }
  if (json) fmt::print("{}\n", rows.dump());
}

void bench_kernels(ModelOptions options, const std::string& op, const kernels::Stream& stream) {
  const BenchModel model = options.find();
  const PrecisionPolicy precision = parse_precision(options.precision);
  const DType dtype = precision.compute;
  const std::unique_ptr<Model> shape = make_model(model.config(), model.name);
  KernelShapes shapes = kernel_shapes(*shape, model.name, options.batch, options.length);
  shapes.tf32 = precision.tf32;
  const std::vector<KernelCase> cases = kernel_cases(stream, shapes, dtype, op);
  const bool gpu = stream.device == kernels::DeviceType::cuda;
  const std::string device = gpu ? "cuda" : fmt::format("{} threads", omp_get_max_threads());
  if (stream.device == kernels::DeviceType::simt) {
    if (!options.json) {
      fmt::print(
          "{}, batch {} x {}, {}, software GPU: bytes and work, not times\n"
          "floor: each value once. used: share of the moved 32-byte sectors that was asked for. "
          "passes: over the banks of shared memory, 1 = no conflicts\n\n",
          model.name, options.batch, options.length, options.precision);
    }
    count_kernels(cases, options.json);
    return;
  }
  MemoryRates memory;
  if (gpu) {
    memory.copy = measure_device_copy(stream);
  } else {
    memory = measure_memory();
  }
  const KernelRates rates{
      .flops = measure_matmul_flops(dtype, gpu ? 8192 : 4096, stream, precision.tf32),
      .bytes = std::max(memory.update, memory.copy)};
  ordered_json rows = ordered_json::array();
  if (!options.json) {
    fmt::print("{}, batch {} x {}, {}, {}, load {:.1f}\n", model.name, options.batch,
               options.length, options.precision, device, load_average());
    fmt::print("matmul  {:.0f} GFLOP/s at {}^3\n", giga(rates.flops), gpu ? 8192 : 4096);
    fmt::print("memory  copy {:.1f} GB/s{}\n\n", giga(memory.copy),
               gpu ? "" : fmt::format(", update in place {:.1f} GB/s", giga(memory.update)));
    fmt::print("{:<14}{:<22}{:<28}{:>10}{:>10}{:>10}{:>18}{:>17}\n", "operation", "", "shape",
               "least ms", "median ms", "floor ms", "GFLOP/s", "GB/s");
  }
  for (const KernelCase& one : cases) {
    const KernelResult r = benchmark_kernel(one, rates);
    const double flops = r.flops / r.seconds.minimum, bytes = r.bytes / r.seconds.minimum;
    if (options.json) {
      rows.push_back({{"op", r.op},
                      {"variant", r.variant},
                      {"shape", r.shape},
                      {"seconds_min", r.seconds.minimum},
                      {"seconds_median", r.seconds.median},
                      {"seconds_floor", r.floor_seconds},
                      {"memory_bound", r.memory_bound},
                      {"flops", r.flops},
                      {"bytes", r.bytes}});
      continue;
    }
    fmt::print(
        "{:<14}{:<22}{:<28}{:>10.3f}{:>10.3f}{:>10.3f}{:>18}{:>17}\n", r.op, r.variant, r.shape,
        1e3 * r.seconds.minimum, 1e3 * r.seconds.median, 1e3 * r.floor_seconds,
        r.flops > 0 ? fmt::format("{:.1f} ({:.0f} %)", giga(flops), 100 * flops / rates.flops) : "",
        fmt::format("{:.1f} ({:.0f} %)", giga(bytes), 100 * bytes / rates.bytes));
    std::fflush(stdout);
  }
  if (options.json) {
    fmt::print("{}\n", ordered_json{{"model", model.name},
                                    {"precision", options.precision},
                                    {"device", gpu ? "cuda" : "cpu"},
                                    {"threads", omp_get_max_threads()},
                                    {"matmul_peak_flops", rates.flops},
                                    {"memory_copy_bytes_per_second", memory.copy},
                                    {"memory_update_bytes_per_second", memory.update},
                                    {"load_average", load_average()},
                                    {"kernels", rows}}
                           .dump());
  }
}

// `engine bench attention`: causal self-attention of one shape.
struct AttentionOptions {
  int64_t batch = 1, length = 0;
  int heads = 0, kv_heads = 0, head_dim = 128;
  std::string precision = "bf16", variant;
  bool json = false;

  void add_to(CLI::App& app) {
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
};

void bench_attention(AttentionOptions options, const kernels::Stream& device) {
  const bool simulated = device.device == kernels::DeviceType::simt;
  if (options.length == 0) options.length = simulated ? 128 : 4096;
  if (options.heads == 0) options.heads = simulated ? 2 : 16;
  if (options.kv_heads == 0) options.kv_heads = options.heads;
  if (options.heads % options.kv_heads != 0) {
    throw Error(ExitCode::usage, "CLI-USAGE", "--heads is not a multiple of --kv-heads")
        .found(fmt::format("{} and {}", options.heads, options.kv_heads));
  }
  const DType dtype = parse_precision(options.precision).compute;
  const std::vector<KernelCase> cases = attention_cases(device,
                                                        {.sequences = options.batch,
                                                         .length = options.length,
                                                         .num_heads = options.heads,
                                                         .num_kv_heads = options.kv_heads,
                                                         .head_dim = options.head_dim},
                                                        dtype, options.variant);
  if (cases.empty()) {
    std::vector<std::string> names;
    for (const auto& variant : kernels::attention_variants(device.device)) {
      names.push_back(variant.name);
    }
    if (names.empty()) {
      throw Error(ExitCode::usage, "BENCH-DEVICE", "the steps of attention are GPU kernels")
          .expected("--device cuda, or --device simt for bytes and work");
    }
    throw Error(ExitCode::usage, "CLI-USAGE", "--variant cannot be " + options.variant)
        .expected(fmt::format("{}", fmt::join(names, ", ")));
  }
  if (simulated) {
    count_kernels(cases, options.json);
    return;
  }
  ordered_json rows = ordered_json::array();
  if (!options.json) {
    fmt::print("{:<14}{:<34}{:>12}{:>12}{:>12}\n", "step", "shape", "least ms", "median ms",
               "TFLOP/s");
  }
  for (const KernelCase& one : cases) {
    const KernelResult r = benchmark_kernel(one, {.flops = 1, .bytes = 1});
    if (options.json) {
      rows.push_back({{"variant", r.variant},
                      {"shape", r.shape},
                      {"seconds_min", r.seconds.minimum},
                      {"seconds_median", r.seconds.median},
                      {"flops", r.flops}});
    } else {
      fmt::print("{:<14}{:<34}{:>12.3f}{:>12.3f}{:>12.1f}\n", r.variant, r.shape,
                 1e3 * r.seconds.minimum, 1e3 * r.seconds.median,
                 r.flops / r.seconds.median / 1e12);
    }
  }
  if (options.json) fmt::print("{}\n", rows.dump());
}

}  // namespace

ExitCode run_bench(Invocation& invocation) {
  if (invocation.global.threads > 0) omp_set_num_threads(invocation.global.threads);
  CLI::App app("Time and memory of training, against what the machine can do", "engine bench");
  app.require_subcommand(1);

  ModelOptions options;
  options.json = invocation.global.json_log;
  CLI::App* const train = app.add_subcommand(
      "train", "Whole steps on random tokens: tokens/s, their parts, MFU, peak memory");
  options.add_to(*train);
  std::string recompute = "none";
  int steps = 5, warmup = 1;
  train->add_option("--recompute", recompute, "none, norms or block")->capture_default_str();
  train->add_option("--steps", steps, "Steps that count")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  train->add_option("--warmup", warmup, "Steps before them")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();

  CLI::App* const kernels_verb = app.add_subcommand(
      "kernels", "Each operation of a step: time, floor, share of the machine's best");
  options.add_to(*kernels_verb);
  std::string op;
  kernels_verb->add_option("--op", op, "One of them only")
      ->check(CLI::IsMember(kernel_operations()));
  CLI::App* const attention = app.add_subcommand(
      "attention", "The steps of docs/kernels.md, from the formula to the kernel that trains");
  AttentionOptions shape;
  shape.json = options.json;
  shape.add_to(*attention);

  std::string device_name = "auto";
  for (CLI::App* const verb : {train, kernels_verb, attention}) {
    add_device_option(*verb, device_name);
  }

  if (!parse_arguments(app, invocation)) return ExitCode::ok;
  const kernels::Stream device = device_of(device_name, invocation);
  if (train->parsed()) bench_train(options, recompute, steps, warmup, device);
  if (kernels_verb->parsed()) bench_kernels(options, op, device);
  if (attention->parsed()) bench_attention(shape, device);
  return ExitCode::ok;
}

}  // namespace engine
