// Device memory: counted by category, planned before it is taken.
//
// Two kinds of allocations:
//   persistent  weights, master copies, gradients, optimizer state: one block each, for a whole run
//   transient   activations and workspaces: out of one arena, first by a dry run that only counts
//
// The arena is a best-fit allocator over one block. Its behaviour is a function of the sequence of
// calls alone, so a dry run on the meta device (no memory behind it, no limit) finds the exact
// size a real arena needs for the same step. In the steady state the device allocator is not
// called.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "kernels/api/types.h"

namespace engine {

enum class MemoryCategory : uint8_t {
  weights,      // compute copies of the parameters
  master,       // fp32 master parameters (under bf16)
  optimizer,    // AdamW m and v
  gradients,    // fp32 parameter gradients
  activations,  // saved for the backward, and gradients in flight
  workspace,    // scratch of one operation
  kv_cache,
  batch,  // ids, positions, targets
};
inline constexpr int kMemoryCategories = 8;
const char* name_of(MemoryCategory category);

// Bytes per category, as they stood at the moment of a peak.
using MemoryBreakdown = std::array<size_t, kMemoryCategories>;

class Memory {
 public:
  explicit Memory(const kernels::Stream& stream);
  explicit Memory(kernels::DeviceType device) : Memory(kernels::Stream{.device = device}) {}
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  struct Block {
    void* data = nullptr;
    size_t bytes = 0;  // rounded up to the alignment
    MemoryCategory category = MemoryCategory::activations;
    bool persistent = false;
  };

  // Alignment of every block: a cache line, an AVX-512 vector, four 16-byte accesses of a GPU.
  static constexpr size_t kAlignment = 64;

  Block allocate(size_t bytes, MemoryCategory category, bool persistent);
  void release(const Block& block);

  // Takes the arena's block from the device; only while no transient allocation lives. Throws
  // Error MEM-ALLOC (out_of_memory) when the device refuses.
  void reserve_arena(size_t bytes);

  // Of transient blocks that are alive. With none, where the next ones go is a function of the
  // calls to come alone.
  size_t transient_bytes() const { return live_transient_ + unplanned_; }
  size_t arena_capacity() const { return arena_capacity_; }
  size_t arena_peak() const { return arena_peak_; }  // highest end of a transient block
  size_t persistent_bytes() const { return persistent_bytes_; }
  // Transient bytes that did not fit the reserved arena: 0 when the plan held.
  size_t unplanned_peak() const { return unplanned_peak_; }
  size_t peak_bytes() const { return peak_total_; }
  const MemoryBreakdown& peak_breakdown() const { return peak_breakdown_; }
  void reset_peak();

  kernels::DeviceType device() const { return stream_.device; }
  bool is_meta() const { return device() == kernels::DeviceType::meta; }

 private:
  void* take_from_device(size_t bytes);
  void give_to_device(void* data);
  void count(const Block& block, bool allocated);

  kernels::Stream stream_;
  char* arena_ = nullptr;
  size_t arena_capacity_ = 0;
  size_t arena_end_ = 0;  // blocks live below this offset
  size_t arena_peak_ = 0;
  // Free ranges below arena_end_: offset -> bytes, and the same by (bytes, offset) for best fit.
  std::map<size_t, size_t> free_by_offset_;
  std::set<std::pair<size_t, size_t>> free_by_size_;
  size_t live_transient_ = 0, persistent_bytes_ = 0, unplanned_ = 0, unplanned_peak_ = 0;
  size_t peak_total_ = 0, total_ = 0;
  MemoryBreakdown live_{}, peak_breakdown_{};
  uintptr_t next_meta_address_;
};

// Bytes of memory this machine can still give to a process: the smaller of what the system has
// available and what its control group allows.
size_t available_host_memory();
// Highest resident set of this process so far, in bytes.
size_t peak_resident_memory();

}  // namespace engine
