// A step's times and memory next to what the machine could do at best: `engine bench train`.
#pragma once

#include <string>

#include "engine/profile/machine_rates.h"
#include "engine/profile/step_benchmark.h"

namespace engine {

struct StepReport {
  StepBenchmark bench;
  std::string device;      // "cpu", or the GPU's name
  double peak_flops = 0;   // what MFU is a share of
  bool datasheet = false;  // peak_flops is the maker's; else a large matmul's
  MemoryRates memory;
  double load = 0;         // load_average() right after the steps
  double adamw_bytes = 0;  // that an update must move

  // Of a step that takes so many seconds.
  double tokens_per_second(double seconds) const;
  double mfu(double seconds) const;
  // Bytes per second of the fastest AdamW.
  double adamw_rate() const;
};

// Throws as benchmark_step().
StepReport report_step(const StepBenchmarkOptions& options);

}  // namespace engine
