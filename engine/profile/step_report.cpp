#include "engine/profile/step_report.h"

#include <algorithm>

#include "engine/core/device.h"
#include "kernels/api/operations.h"

namespace engine {

double StepReport::tokens_per_second(double seconds) const {
  return static_cast<double>(bench.tokens) / seconds;
}

double StepReport::mfu(double seconds) const {
  return bench.flops / seconds / peak_flops;
}

double StepReport::adamw_rate() const {
  const auto fastest =
      std::min_element(bench.steps.begin(), bench.steps.end(),
                       [](const StepTimes& a, const StepTimes& b) { return a.adamw < b.adamw; });
  return adamw_bytes / fastest->adamw;
}

StepReport report_step(const StepBenchmarkOptions& options) {
  const kernels::Stream& device = options.device;
  StepReport report{.bench = benchmark_step(options), .device = name_of(device)};
  report.load = load_average();
  // kernels/cpu/optimizer.cpp
  report.adamw_bytes = (options.precision.compute == DType::bf16 ? 34.0 : 32.0) *
                       static_cast<double>(report.bench.num_params);
  if (device.device == kernels::DeviceType::cuda) {
    report.device = kernels::operations(device).device_info(device).name;
    report.peak_flops = datasheet_flops(report.device, options.precision.compute);
    report.datasheet = report.peak_flops > 0;
  }
  report.memory = measure_memory(device);
  if (!report.datasheet) {
    const bool simulated = device.device == kernels::DeviceType::simt;
    report.peak_flops = measure_matmul_flops(options.precision.compute, simulated ? 256 : 4096,
                                             device, options.precision.tf32);
  }
  return report;
}

}  // namespace engine
