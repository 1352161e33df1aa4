// What kernels on the software GPU move and multiply: the numbers a profiler would give for the
// same grid on a GPU, without time.
//
//   start_counting();
//   ... launches ...
//   for (const auto& [kernel, work] : stop_counting()) ...
//
// Lanes run one after the other here, so the accesses of a warp instruction are put together
// afterwards: the k-th access of each lane since the warp was last together (a shuffle, an mma, a
// barrier) is taken to be the same instruction. Where lanes diverge this is an approximation.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace engine::kernels::simt {

struct KernelWork {
  int64_t launches = 0, blocks = 0;
  // Device memory: warp instructions, bytes that their lanes asked for (once where lanes share
  // them), 32-byte sectors that were moved for them. All bytes used: sectors * 32 == bytes.
  int64_t global_reads = 0, global_read_bytes = 0, global_read_sectors = 0;
  int64_t global_writes = 0, global_write_bytes = 0, global_write_sectors = 0;
  int64_t bulk_read_bytes = 0, bulk_write_bytes = 0;  // TMA and other bulk copies
  // Shared memory: warp instructions, and passes over the 32 banks that they took. Without
  // conflicts a pass serves 128 bytes (or every lane that asks for the same words).
  int64_t shared_accesses = 0, shared_passes = 0, shared_passes_needed = 0;
  int64_t tensor_flops = 0;       // mma and wgmma: 2 m n k each
  int64_t special_functions = 0;  // exp2, reciprocal, tanh: lanes, not warps

  double global_efficiency() const {
    const int64_t sectors = global_read_sectors + global_write_sectors;
    return sectors ? static_cast<double>(global_read_bytes + global_write_bytes) / (32.0 * sectors)
                   : 1.0;
  }
  double shared_conflicts() const {  // passes per pass needed; 1 = none
    return shared_passes_needed ? static_cast<double>(shared_passes) / shared_passes_needed : 1.0;
  }
  KernelWork& operator+=(const KernelWork& other);
};

// From here on every launch is counted, by kernel name. Slower.
void start_counting();
std::map<std::string, KernelWork> stop_counting();

}  // namespace engine::kernels::simt
