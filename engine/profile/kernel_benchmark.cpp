#include "engine/profile/kernel_benchmark.h"

#include <algorithm>

namespace engine {

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
  result.seconds = time_repeated(one.prepare(), repeat);
  return result;
}

}  // namespace engine
