// What Hopper does beside its threads: mbarriers, the tensor memory accelerator (TMA), bulk copies.
// Behaviour and layouts are described in kernels/cuda/device/{mbarrier,tma,cluster}.h; here is how
// misuse is found.
//
// Faults: arriving more often than a phase expects; waiting on or arriving at what is no mbarrier,
// or was overwritten; TMA with an mbarrier whose initialisation was not fenced; misaligned
// addresses and coordinates that a tensor map forbids; data that leaves for a block that has
// returned; shared memory written by store() and read or overwritten by the hardware without
// fence.proxy.async of the writing thread.
// Shown as wrong results: the destination of a load is NaN from its start to its completion; the
// source of a store is read, and device memory written, as late as the waits allow (lazy) or at
// random moments before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/simt/machine.h"

namespace engine::kernels::simt {

// --- mbarriers ---------------------------------------------------------------------------------

struct Mbarrier {
  uint32_t offset = 0;  // in the shared memory of its block
  uint32_t expected = 0, pending = 0;
  int64_t bytes = 0;   // expected minus arrived, in this phase
  uint32_t phase = 0;  // phases completed
  Thread* initialiser = nullptr;
  bool fenced = false;
  struct Waiter {
    Thread* thread;
    uint32_t parity;
  };
  std::vector<Waiter> waiters;
};

void init_mbarrier(void* barrier, uint32_t arrivals);
void fence_mbarriers();
// Arrives once after expecting `bytes` more. The barrier may be another block's.
void arrive_mbarrier(void* barrier, int64_t bytes = 0);
void expect_mbarrier(void* barrier, int64_t bytes);
// Stops the thread until the phase of this parity is complete.
void wait_mbarrier(void* barrier, uint32_t parity);
// For the report of a deadlock: " (…)" if the thread waits on an mbarrier, else nothing.
std::string describe_mbarrier_wait(const Thread& thread);

// --- Clusters ----------------------------------------------------------------------------------

// The same place in the shared memory of another block of the cluster.
void* map_to_rank(void* address, int rank);
// setmaxnreg: by all 128 threads of a warpgroup.
void set_registers(int count);

// --- Proxies -----------------------------------------------------------------------------------

// fence.proxy.async: what this thread wrote to shared memory is visible to the hardware.
void fence_proxy();
// Faults if these bytes of shared memory were written by a thread that has not fenced since. `what`
// the hardware is about to do with them: "wgmma reads".
void check_fenced(const Block& block, uint32_t offset, uint32_t bytes, const char* what);

// --- TMA ---------------------------------------------------------------------------------------

// A tensor of up to three dimensions in device memory, innermost first, and the box of it that one
// instruction moves. Compare with CUtensorMap.
struct TensorBox {
  std::byte* base = nullptr;
  int rank = 0;
  uint32_t element_bytes = 0;
  bool is_float = false;  // fp32: can be reduced
  bool swizzle = false;   // 128 bytes
  int64_t size[3] = {1, 1, 1};
  int64_t stride[3] = {0, 0, 0};  // bytes; stride[0] = element_bytes
  int32_t box[3] = {1, 1, 1};
};

struct Coordinates {
  int32_t at[3] = {0, 0, 0};
};

// 128-byte swizzle: 16-byte chunk `address / 16 % 8` is stored at chunk ^ (address / 128 % 8).
inline uint32_t swizzle_128(uint32_t offset) {
  return offset ^ ((offset >> 3) & 0x70);
}

// `blocks`: bit r = also to the block of rank r, at the same place, with its own mbarrier at the
// place of `barrier`; 0 = to this block only.
void tensor_load(void* to, const TensorBox& tensor, Coordinates from, void* barrier,
                 uint16_t blocks);
enum class StoreKind : uint8_t { plain, add_f32 };
void tensor_store(const TensorBox& tensor, Coordinates to, const void* from, StoreKind kind);
// 1-D: multiples of 16 bytes.
void bulk_load(void* to, const void* from, uint32_t bytes, void* barrier);
void bulk_store(void* to, const void* from, uint32_t bytes, StoreKind kind);

// A store that was issued: first its source is read, later device memory is written.
struct BulkStore {
  Block* block = nullptr;
  StoreKind kind = StoreKind::plain;
  int group = 0;
  // Runs of bytes of the source and where they go.
  struct Run {
    uint32_t from;
    std::byte* to;
    uint32_t bytes;
  };
  std::vector<Run> runs;
  std::vector<std::byte> data;
  bool was_read = false, was_written = false;

  void read();
  void write();
};
void commit_bulk_group();
// Until at most `groups` of this thread's groups are unfinished; with read_only, until their
// sources have been read.
void wait_bulk_group(int groups, bool read_only);

// After the last thread: nothing may be left undone.
void check_end(Cluster& cluster);

}  // namespace engine::kernels::simt
