// mbarriers: phases, parities, bytes.
#include "kernels/cuda/device/cluster.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/tma.h"
#include "kernels/cuda/device/warp.h"
#include "tests/kernels/hardware/arrays.h"
#include "tests/kernels/hardware/assumption.h"

namespace engine::kernels::ENGINE_GPU::hardware {
namespace {

using namespace testing;

// One thread alone: every wait here must return at once, or the kernel hangs.
__global__ void parity_kernel(int32_t* out) {
  SharedMemory shared;
  const MbarrierAddress barrier = shared.take<uint64_t>(1, 8);
  if (threadIdx.x != 0) return;
  mbarrier_init(barrier, 2);
  fence_mbarrier_init();
  mbarrier_wait(barrier, 1);  // "the phase before the first" is complete
  for (int phase = 0; phase < 3; ++phase) {
    mbarrier_arrive(barrier);
    mbarrier_wait(barrier, static_cast<uint32_t>(phase + 1) & 1);  // still in `phase`
    mbarrier_arrive(barrier);
    mbarrier_wait(barrier, static_cast<uint32_t>(phase) & 1);
    store(out + phase, phase + 1);
  }
}

void parities(Report& report) {
  const OnDevice<int32_t> out(3);
  launch({}, "parity", parity_kernel, {.grid = {1}, .block = {32}, .shared_bytes = 8}, out.data());
  report.compare("phases", out.values(), [](size_t i) { return static_cast<int32_t>(i + 1); });
}

// Warp 0 hands numbers over to warp 1 through a ring of two slots; every phase several times.
__global__ void ring_kernel(float* out, int rounds) {
  SharedMemory shared;
  const auto ring = shared.take<float>(2 * kWarp);
  const MbarrierAddress full = shared.take<uint64_t>(2), empty = shared.take<uint64_t>(2);
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      mbarrier_init(full + i, kWarp);
      mbarrier_init(empty + i, kWarp);
    }
    fence_mbarrier_init();
  }
  sync_threads();
  RingPosition<2> at;
  for (int i = 0; i < rounds; ++i, at.advance()) {
    const auto mine = ring + at.slot * kWarp + lane_index();
    if (warp_index() == 0) {
      mbarrier_wait(empty + at.slot, at.parity ^ 1);
      store(mine, static_cast<float>(100 * i + lane_index()));
      mbarrier_arrive(full + at.slot);
    } else {
      mbarrier_wait(full + at.slot, at.parity);
      // another lane's value: the whole warp must have arrived
      store(out + i * kWarp + lane_index(),
            load(ring + at.slot * kWarp + (kWarp - 1 - lane_index())));
      mbarrier_arrive(empty + at.slot);
    }
  }
}

void ring(Report& report) {
  constexpr int kRounds = 7;
  const OnDevice<float> out(kRounds * kWarp);
  launch({}, "ring", ring_kernel,
         {.grid = {1}, .block = {64}, .shared_bytes = 2 * kWarp * 4 + 4 * 8}, out.data(), kRounds);
  report.compare("handed over", out.values(),
                 [](size_t i) { return static_cast<float>(100 * (i / 32) + 31 - i % 32); });
}

// A phase ends when all arrivals and all bytes have come, in whatever order they were announced:
// two copies, one expected with an arrival, one before it started, and one expected after.
__global__ void bytes_kernel(const float* x, float* out) {
  SharedMemory shared;
  const auto tile = shared.take<float>(192);
  const MbarrierAddress barrier = shared.take<uint64_t>(1, 8);
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 2);
    fence_mbarrier_init();
    mbarrier_expect(barrier, 256);
    bulk_load(tile, x, 64, barrier);
    bulk_load(tile + 64, x + 64, 64, barrier);
    mbarrier_arrive_expect(barrier, 256);
    bulk_load(tile + 128, x + 128, 64, barrier);
    mbarrier_arrive_expect(barrier, 256);
  }
  sync_threads();
  mbarrier_wait(barrier, 0);
  for (int i = static_cast<int>(threadIdx.x); i < 192; i += kWarp) store(out + i, load(tile + i));
}

void bytes(Report& report) {
  const auto x = counted(192);
  const OnDevice<float> device(x), out(192);
  launch({}, "bytes", bytes_kernel, {.grid = {1}, .block = {32}, .shared_bytes = 192 * 4 + 8},
         static_cast<const float*>(device.data()), out.data());
  report.compare("copied", out.values(), [&](size_t i) { return x[i]; });
}

// Block 1 of a cluster arrives at block 0's barrier and leaves a number in its memory.
__global__ void remote_kernel(float* out) {
  SharedMemory shared;
  const auto number = shared.take<float>(1);
  const MbarrierAddress barrier = shared.take<uint64_t>(1, 8);
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
  }
  sync_cluster();
  if (cluster_rank() == 1) {
    if (threadIdx.x == 0) {
      store(at_rank(number, 0), 42.0f);
      mbarrier_arrive_at(barrier, 0);
    }
  } else {
    mbarrier_wait_cluster(barrier, 0);
    store(out + static_cast<int>(blockIdx.x / 2) * kWarp + lane_index(), load(number));
    // Released without a fence: only says that the number was read.
    if (threadIdx.x == 0) mbarrier_release_at(barrier, 1);
  }
  if (cluster_rank() == 1) mbarrier_wait(barrier, 0);
  sync_cluster();
}

void remote_arrivals(Report& report) {
  const OnDevice<float> out(2 * kWarp);
  launch({}, "remote", remote_kernel,
         {.grid = {4}, .block = {32}, .cluster = 2, .shared_bytes = 32}, out.data());
  report.compare("handed over", out.values(), [](size_t) { return 42.0f; });
}

}  // namespace

Assumptions mbarrier_assumptions() {
  static const Assumption all[] = {
      {"mbarrier_parity", "a wait for parity p returns unless the phase under way has it", 90,
       parities},
      {"mbarrier_ring", "full and empty barriers of a ring hand memory over", 90, ring},
      {"mbarrier_bytes", "a phase waits for arrivals and bytes, in any order", 90, bytes},
      {"mbarrier_remote", "arrivals from another block of the cluster, and what they publish", 90,
       remote_arrivals},
  };
  return all;
}

}  // namespace engine::kernels::ENGINE_GPU::hardware
