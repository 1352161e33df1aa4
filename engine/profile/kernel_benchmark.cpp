#include "engine/profile/kernel_benchmark.h"

#include <algorithm>
#include <utility>

#include "kernels/api/operations.h"

namespace engine {

namespace {

Timing time_on_device(const kernels::Stream& stream, const std::function<void()>& run,
                      const RepeatOptions& repeat) {
  const kernels::Operations& ops = kernels::operations(stream);
  const auto sample = [&](int launches) {
    return [&ops, &stream, &run, launches] {
      for (int i = 0; i < launches; ++i) run();
      ops.synchronize(stream);
    };
  };
  if (stream.device != kernels::DeviceType::cuda) return time_repeated(sample(1), repeat);
  constexpr double kSampleSeconds = 1e-3;
  const double once =
      time_repeated(sample(1), {.min_runs = 3, .max_runs = 3, .min_seconds = 0}).minimum;
  const int launches = std::clamp(static_cast<int>(kSampleSeconds / once) + 1, 1, 1000);
  Timing timing = time_repeated(sample(launches), repeat);
  timing.median /= launches;
  timing.minimum /= launches;
  return timing;
}

}  // namespace

KernelShapes kernel_shapes(const Model& model, const std::string& name, int64_t sequences,
                           int64_t length) {
  const ModelInfo& info = model.info();
  return {.name = name,
          .gpt2 = info.family == "gpt2",
          .sequences = sequences,
          .length = length,
          .hidden = info.hidden_size,
          .intermediate = info.intermediate_size,
          .vocab_size = info.vocab_size,
          .num_params = model.parameters().count(),
          .num_heads = info.num_heads,
          .num_kv_heads = info.num_kv_heads,
          .head_dim = info.head_dim};
}

KernelResult benchmark_kernel(const KernelCase& one, const KernelRates& rates,
                              const RepeatOptions& repeat) {
  KernelResult result{.op = one.op,
                      .variant = one.variant,
                      .shape = one.shape,
                      .flops = one.flops,
                      .bytes = one.bytes};
  const double arithmetic = one.flops / rates.flops, memory = one.bytes / rates.bytes;
  result.floor_seconds = std::max(arithmetic, memory);
  result.memory_bound = memory > arithmetic;
  result.seconds = time_on_device(one.stream, one.prepare(), repeat);
  return result;
}

std::map<std::string, kernels::simt::KernelWork> count_kernel(const KernelCase& one) {
  const std::function<void()> run = one.prepare();  // may itself launch kernels
  const kernels::Operations& ops = kernels::operations(one.stream);
  ops.synchronize(one.stream);
  kernels::simt::start_counting();
  try {
    run();
    ops.synchronize(one.stream);
  } catch (...) {
    kernels::simt::stop_counting();
    throw;
  }
  return kernels::simt::stop_counting();
}

}  // namespace engine
