// Time per operation next to its floor.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "engine/profile/kernel_cases.h"
#include "engine/profile/timing.h"
#include "kernels/simt/counters.h"
#include "models/model.h"

namespace engine {

// What the operations of one training step of this model look like.
KernelShapes kernel_shapes(const Model& model, const std::string& name, int64_t sequences,
                           int64_t length);

struct KernelRates {
  double flops = 0;  // per second: a large square matmul of the dtype
  double bytes = 0;  // per second: memory, read and written
};

struct KernelResult {
  std::string op, variant, shape;
  Timing seconds;
  double flops = 0, bytes = 0;
  // The least time at these rates: of the arithmetic, or of the memory, whichever is longer.
  double floor_seconds = 0;
  bool memory_bound = false;
};

// Runs one case. Its operands may stay in the cache between runs when they fit there. On a GPU a
// sample is as many launches as take a millisecond, so that the wait at its end does not count.
KernelResult benchmark_kernel(const KernelCase& one, const KernelRates& rates,
                              const RepeatOptions& repeat = {});

// Runs one case once on the software GPU: what each of its kernels moves and multiplies.
std::map<std::string, kernels::simt::KernelWork> count_kernel(const KernelCase& one);

}  // namespace engine
