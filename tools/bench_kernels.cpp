// engine bench kernels and engine bench attention: what they print.
#include <fmt/format.h>
#include <omp.h>

#include <nlohmann/json.hpp>

#include "engine/core/error.h"
#include "engine/profile/kernel_benchmark.h"
#include "engine/profile/machine_rates.h"
#include "kernels/api/attention_variants.h"
#include "models/registry.h"
#include "tools/bench.h"
#include "tools/precision.h"

namespace engine {
namespace {

using nlohmann::ordered_json;

double giga(double value) {
  return value / 1e9;
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

}  // namespace

void bench_kernels(BenchKernelsOptions options, const kernels::Stream& stream) {
  const BenchModel model = options.find();
  const PrecisionPolicy precision = parse_precision(options.precision);
  const DType dtype = precision.compute;
  const std::unique_ptr<Model> shape = make_model(model.config(), model.name);
  if (shape->info().task != Task::causal_lm || shape->info().encoder_decoder) {
    throw Error(ExitCode::usage, "BENCH-MODEL",
                model.name + " is not a decoder: its operations are not listed here")
        .expected("an architecture ...ForCausalLM or ...LMHeadModel")
        .fix("engine bench train, for the whole step");
  }
  KernelShapes shapes = kernel_shapes(*shape, model.name, options.batch, options.length);
  shapes.tf32 = precision.tf32;
  const std::vector<KernelCase> cases = kernel_cases(stream, shapes, dtype, options.op);
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
  const MachineRates machine = measure_rates(stream, dtype, precision.tf32);
  const KernelRates rates{.flops = machine.flops, .bytes = machine.memory.best()};
  ordered_json rows = ordered_json::array();
  if (!options.json) {
    fmt::print("{}, batch {} x {}, {}, {}, load {:.1f}\n", model.name, options.batch,
               options.length, options.precision, device, load_average());
    fmt::print("matmul  {:.0f} GFLOP/s at {}^3\n", giga(rates.flops), machine.matmul_size);
    fmt::print(
        "memory  copy {:.1f} GB/s{}\n\n", giga(machine.memory.copy),
        gpu ? "" : fmt::format(", update in place {:.1f} GB/s", giga(machine.memory.update)));
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
                                    {"memory_copy_bytes_per_second", machine.memory.copy},
                                    {"memory_update_bytes_per_second", machine.memory.update},
                                    {"load_average", load_average()},
                                    {"kernels", rows}}
                           .dump());
  }
}

void bench_attention(BenchAttentionOptions options, const kernels::Stream& device) {
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

}  // namespace engine
