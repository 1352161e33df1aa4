// What this machine reaches with the threads it is given: the yardsticks of every other figure.
#pragma once

#include <string>

#include "kernels/api/types.h"

namespace engine {

// FLOP/s of a square matrix product, inputs of this type (fp32 perhaps as TF32) and fp32 sums, best
// of several runs.
// size^3 should be large enough that neither packing nor the threads' start matters.
double measure_matmul_flops(kernels::DType dtype, int64_t size = 4096,
                            const kernels::Stream& stream = {}, bool tf32 = false);

// The dense matrix rate of a GPU by its maker's datasheet, FLOP/s; 0 where it is not known here.
// The yardstick of MFU on GPUs: what a product reaches depends on the power that its values draw.
double datasheet_flops(const std::string& gpu_name, kernels::DType dtype);

// Bytes per second, read and written together, best of several runs over `bytes` of memory. Choose
// them larger than the last cache.
struct MemoryRates {
  double copy = 0;    // a[i] = b[i]; the lines of a are read first unless stores bypass the cache
  double update = 0;  // a[i] = c · a[i] in place, as an optimizer does: as much read as written

  double best() const { return copy > update ? copy : update; }
};
// Of this machine's memory; of a GPU's the copy alone, its own.
MemoryRates measure_memory(const kernels::Stream& stream = {}, size_t bytes = size_t{1} << 30);

// Both, as a yardstick for operations of a dtype.
struct MachineRates {
  double flops = 0;         // of a matmul of
  int64_t matmul_size = 0;  // so many rows, columns and depth
  MemoryRates memory;
};
MachineRates measure_rates(const kernels::Stream& stream, kernels::DType dtype, bool tf32);

// 1-minute load average: what else ran on this machine. -1 where that is not known.
double load_average();

}  // namespace engine
