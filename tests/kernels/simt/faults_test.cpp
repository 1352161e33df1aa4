// What a GPU forbids ends the launch with a fault that names kernel, block and thread.
#include <vector>

#include "kernels/cuda/device/cluster.h"
#include "kernels/cuda/device/cp_async.h"
#include "kernels/cuda/device/mma.h"
#include "kernels/cuda/device/tma.h"
#include "kernels/cuda/device/warp.h"
#include "kernels/cuda/device/wgmma.h"
#include "tests/kernels/simt/support.h"

namespace engine::kernels::simt::testing {
namespace {

// What `body`, run in every thread of two blocks of `threads`, ends with under each schedule.
using Body = void (*)(float* memory);
void expect_fault(Body body, const std::vector<std::string>& message, unsigned threads = 64,
                  unsigned cluster = 1) {
  under_all_schedules([&] {
    const OnDevice<float> memory(std::vector<float>(64, 1.0f));
    const std::string fault = fault_of([&] {
      launch({}, "faulty", body,
             {.grid = {2}, .block = {threads}, .cluster = cluster, .shared_bytes = 4096},
             memory.data());
    });
    EXPECT_NE(fault, "");
    expect_in(fault, {"faulty"});
    expect_in(fault, message);
  });
}

// In thread 37 of block 1.
bool chosen() {
  return blockIdx.x == 1 && threadIdx.x == 37;
}
const std::string kChosen = "kernel faulty, block (1,0,0) of (2,1,1), thread 37 of 64: ";

// --- Memory ------------------------------------------------------------------------------------

TEST(Faults, GlobalReadOutOfBounds) {
  expect_fault(
      [](float* memory) {
        if (chosen()) load(memory + 64);
      },
      {kChosen + "out-of-bounds read of 4 bytes", "4 bytes past the end", "256 bytes"});
}

TEST(Faults, GlobalWriteBeforeTheBeginning) {
  expect_fault(
      [](float* memory) {
        if (chosen()) store(memory - 1, 0.0f);
      },
      {kChosen + "out-of-bounds write of 4 bytes"});
}

TEST(Faults, VectorOverTheEnd) {
  expect_fault(
      [](float* memory) {
        if (chosen()) load_vector<4>(memory + 62);
      },
      {kChosen + "out-of-bounds read of 16 bytes"});
}

TEST(Faults, MisalignedVector) {
  expect_fault(
      [](float* memory) {
        if (chosen()) load_vector<4>(memory + 2);
      },
      {kChosen + "misaligned read of 16 bytes"});
}

TEST(Faults, HostMemory) {
  static float host[4];
  expect_fault(
      [](float*) {
        if (chosen()) store(host, 1.0f);
      },
      {kChosen + "out-of-bounds write of 4 bytes"});
}

TEST(Faults, SharedMemoryOutOfBounds) {
  expect_fault(
      [](float*) {
        SharedMemory shared;
        if (chosen()) store(shared.take<float>(1) + 1024, 1.0f);
      },
      {kChosen + "out-of-bounds write of 4 bytes of shared memory at offset 4096 of 4096 bytes"});
}

TEST(Faults, SharedMemoryMisaligned) {
  expect_fault(
      [](float*) {
        SharedMemory shared;
        if (chosen()) load_vector<4>(shared.take<float>(8) + 1);
      },
      {kChosen + "misaligned access of 16 bytes to shared memory at offset 4"});
}

TEST(Faults, AsyncCopyOutOfBounds) {
  expect_fault(
      [](float* memory) {
        SharedMemory shared;
        if (chosen()) copy_async_16(shared.take<float>(4), memory + 64);
      },
      {kChosen + "out-of-bounds read of 16 bytes"});
}

TEST(Faults, MatrixRowMisaligned) {
  expect_fault(
      [](float*) {
        SharedMemory shared;
        uint32_t r[4];
        load_matrix_x4(r, shared.take<BFloat16>(1024) + lane_index() * 8 + (chosen() ? 1 : 0));
      },
      {kChosen + "misaligned access of 16 bytes"});
}

// --- Waiting -----------------------------------------------------------------------------------

TEST(Faults, BarrierDivergence) {
  expect_fault(
      [](float*) {
        if (threadIdx.x >= 32) return;
        sync_threads();
      },
      {"32", "__syncthreads()"});
}

TEST(Faults, LanesAtDifferentOperations) {
  expect_fault(
      [](float*) {
        if (threadIdx.x % 2) {
          shuffle(1.0f, 0);
        } else {
          ballot(true);
        }
      },
      {"kernel faulty, block (", "the lanes of a warp are at different operations", "shuffle",
       "ballot"});
}

TEST(Faults, LanesThatReturnBeforeTheOthersMeet) {
  expect_fault(
      [](float*) {
        if (lane_index() == 3) return;
        sync_warp();
      },
      {"__syncwarp()"});
}

TEST(Faults, NamedBarrierOfTwoSizes) {
  expect_fault([](float*) { sync_named_barrier(1, threadIdx.x < 32 ? 32 * 2 : 32); },
               {"barrier"});  // sizes that differ, or one warp that waits alone
}

TEST(Faults, DeadlockSaysWhoWaitsForWhat) {
  expect_fault(
      [](float*) {
        SharedMemory shared;
        const MbarrierAddress barrier = shared.take<uint64_t>(2) + 1;
        if (threadIdx.x == 0) {
          mbarrier_init(barrier, 2);
          fence_mbarrier_init();
          mbarrier_arrive_expect(barrier, 48);
        }
        sync_threads();
        if (threadIdx.x < 32) {
          mbarrier_wait(barrier, 0);
        } else {
          sync_named_barrier(3, 64);
        }
      },
      {"kernel faulty: deadlock", "block (0,0,0) threads 0-31: mbarrier at offset 0x8",
       "phase 0 has 1 of 2 arrivals and misses 48 bytes", "threads 32-63: named barrier 0x3"});
}

// --- mbarriers ---------------------------------------------------------------------------------

TEST(Faults, MbarrierUnderflow) {
  expect_fault(
      [](float*) {
        SharedMemory shared;
        const MbarrierAddress barrier = shared.take<uint64_t>(1);
        if (threadIdx.x == 0) {
          mbarrier_init(barrier, 1);
          mbarrier_arrive_expect(barrier, 16);  // the phase stays open: bytes are missing
        }
        sync_threads();
        if (threadIdx.x == 40) mbarrier_arrive(barrier);
      },
      {"thread 40 of 64", "mbarrier underflow at shared memory offset 0",
       "more than 1 arrivals in phase 0"});
}

TEST(Faults, MbarrierNeverInitialised) {
  expect_fault(
      [](float*) {
        SharedMemory shared;
        if (chosen()) mbarrier_wait(shared.take<uint64_t>(1), 0);
      },
      {kChosen + "wait: there is no initialised mbarrier at shared memory offset 0"});
}

TEST(Faults, MbarrierMisaligned) {
  expect_fault(
      [](float*) {
        SharedMemory shared;
        if (chosen()) mbarrier_init((shared.take<uint32_t>(3) + 1).as<uint64_t>(), 1);
      },
      {kChosen + "misaligned access of 8 bytes to shared memory at offset 4"});
}

TEST(Faults, MbarrierOverwritten) {
  expect_fault(
      [](float*) {
        SharedMemory shared;
        const MbarrierAddress barrier = shared.take<uint64_t>(1);
        if (!chosen()) return;
        mbarrier_init(barrier, 2);
        store(barrier.as<float>(), 1.0f);
        mbarrier_arrive(barrier);
      },
      {kChosen + "arrive: the mbarrier at shared memory offset 0 was overwritten"});
}

// --- TMA, wgmma, clusters ----------------------------------------------------------------------

template <bool misplaced, bool early_return>
void tma_kernel(const TensorMap map) {
  SharedMemory shared;
  const auto tile = shared.take<float>(1024, 1024);
  const MbarrierAddress barrier = shared.take<uint64_t>(1);
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(barrier, 1024);
    tensor_load(tile + (misplaced ? 16 : 0), map, barrier, Coordinate2{0, 0});
  }
  sync_threads();
  if (!early_return) mbarrier_wait(barrier, 0);
}

TEST(Faults, TmaIntoAMisalignedPlaceAndIntoAFinishedBlock) {
  const OnDevice<float> x(std::vector<float>(1024, 1.0f));
  const TensorMap map = make_tensor_map(
      {.base = x.data(), .dtype = DType::f32, .size = {32, 32}, .stride = {32}, .box = {32, 8}});
  const LaunchConfig config{.grid = {1}, .block = {32}, .shared_bytes = 4104};
  EXPECT_EQ(fault_of([&] { launch({}, "tma", tma_kernel<false, false>, config, map); }), "");
  expect_in(fault_of([&] { launch({}, "tma", tma_kernel<true, false>, config, map); }),
            {"kernel tma, block (0,0,0) of (1,1,1), thread 0 of 32",
             "shared memory offset 64 is not a multiple of 128"});
  const WithSchedule lazy("lazy");
  expect_in(fault_of([&] { launch({}, "tma", tma_kernel<false, true>, config, map); }),
            {"kernel tma", "arrives in the shared memory", "already returned"});
}

// Shared memory written by ordinary stores and read by wgmma.
template <bool fenced>
void wgmma_kernel(float* out) {
  SharedMemory shared;
  const auto tile = shared.take<BFloat16>(64 * 64, 1024);
  for (int i = static_cast<int>(threadIdx.x); i < 4096; i += kWarpgroup) {
    store(tile + i, from_float<BFloat16>(1.0f));
  }
  if (fenced) fence_async_proxy();
  sync_threads();
  float d[32];
  warpgroup_fence();
  wgmma<64>(d, MatrixTile<Major::k>(tile), MatrixTile<Major::k>(tile), false);
  warpgroup_commit();
  warpgroup_wait<0>();
  store(out + static_cast<int>(threadIdx.x), d[0]);
}

TEST(Faults, WgmmaOfMemoryThatWasNotFenced) {
  const OnDevice<float> out(128);
  const LaunchConfig config{.grid = {1}, .block = {128}, .shared_bytes = 8192};
  EXPECT_EQ(fault_of([&] { launch({}, "wgmma", wgmma_kernel<true>, config, out.data()); }), "");
  EXPECT_EQ(out.values()[77], 16.0f);
  expect_in(fault_of([&] { launch({}, "wgmma", wgmma_kernel<false>, config, out.data()); }),
            {"kernel wgmma", "wgmma reads shared memory at offset", "without a fence.proxy.async"});
}

// Shared memory written by ordinary stores that a load overwrites: which comes last is not said.
template <bool fenced>
void overwrite_kernel(const TensorMap map) {
  SharedMemory shared;
  const auto tile = shared.take<float>(1024, 1024);
  const MbarrierAddress barrier = shared.take<uint64_t>(1);
  store(tile + 5 * lane_index(), 1.0f);
  if (fenced) fence_async_proxy();
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
  }
  sync_threads();
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect(barrier, 1024);
    tensor_load(tile, map, barrier, Coordinate2{0, 0});
  }
  mbarrier_wait(barrier, 0);
}

TEST(Faults, TmaOverMemoryThatWasNotFenced) {
  const OnDevice<float> x(std::vector<float>(1024, 1.0f));
  const TensorMap map = make_tensor_map(
      {.base = x.data(), .dtype = DType::f32, .size = {32, 32}, .stride = {32}, .box = {32, 8}});
  const LaunchConfig config{.grid = {1}, .block = {32}, .shared_bytes = 4104};
  EXPECT_EQ(fault_of([&] { launch({}, "over", overwrite_kernel<true>, config, map); }), "");
  expect_in(fault_of([&] { launch({}, "over", overwrite_kernel<false>, config, map); }),
            {"kernel over", "a TMA load overwrites shared memory at offset 0, which thread 0 wrote",
             "without a fence.proxy.async"});
}

TEST(Faults, WarpsOfAWarpgroupThatIssueDifferentWgmmas) {
  expect_fault(
      [](float*) {
        float d[32];
        SharedMemory shared;
        const MatrixTile<Major::k> tile(shared.take<BFloat16>(64, 1024));
        warpgroup_fence();
        wgmma<64>(d, tile.at_k(warp_index() == 2 ? 16 : 0), tile, false);
      },
      {"kernel faulty", "wgmma"}, 128);
}

TEST(Faults, MemoryOfABlockThatReturned) {
  expect_fault(
      [](float*) {
        SharedMemory shared;
        const auto value = shared.take<float>(1);
        sync_cluster();
        if (cluster_rank() == 1) return;
        for (int i = 0; i < 100; ++i) sync_threads();  // the other one has time to end
        load(at_rank(value, 1));
      },
      {"kernel faulty, block (0,0,0)", "shared memory of block 1 of the cluster",
       "already returned"},
      64, 2);
}

TEST(Faults, RankBeyondTheCluster) {
  expect_fault(
      [](float*) {
        SharedMemory shared;
        if (chosen()) load(at_rank(shared.take<float>(1), 1));
      },
      {kChosen + "there is no block 1 in a cluster of 1"});
}

TEST(Faults, MoreRegistersThanThereAre) {
  expect_fault(
      [](float*) {
        if (threadIdx.x < 128) {
          take_registers<256>();
        } else {
          take_registers<256>();
        }
      },
      {"setmaxnreg: 512 registers"}, 256);
}

// --- Launches ----------------------------------------------------------------------------------

TEST(Faults, ShapesThatNoGpuStarts) {
  const Body nothing = [](float*) {};
  const auto start = [&](const LaunchConfig& config) {
    return fault_of([&] { launch({}, "shape", nothing, config, static_cast<float*>(nullptr)); });
  };
  EXPECT_EQ(start({.grid = {1}, .block = {32}}), "");
  EXPECT_EQ(start({.grid = {0}, .block = {32}}), "");  // no blocks: nothing is started
  expect_in(start({.grid = {1}, .block = {33}}), {"launch of shape", "33 threads per block"});
  expect_in(start({.grid = {1}, .block = {1056}}), {"launch of shape", "1056 threads"});
  expect_in(start({.grid = {3}, .block = {32}, .cluster = 2}),
            {"launch of shape", "clusters of 2 do not divide a grid of 3"});
  expect_in(start({.grid = {1}, .block = {32}, .shared_bytes = 232449}),
            {"launch of shape", "232449 bytes of shared memory"});
}

// After a fault the next launch starts afresh.
TEST(Faults, LeaveNothingBehind) {
  const OnDevice<float> memory(64);
  const Body bad = [](float*) {
    if (threadIdx.x < 32) sync_threads();
  };
  const Body good = [](float* out) {
    sync_threads();
    store(out + static_cast<int>(threadIdx.x), 5.0f);
  };
  const LaunchConfig config{.grid = {1}, .block = {64}};
  EXPECT_NE(fault_of([&] { launch({}, "bad", bad, config, memory.data()); }), "");
  EXPECT_EQ(fault_of([&] { launch({}, "good", good, config, memory.data()); }), "");
  EXPECT_EQ(memory.values(), std::vector<float>(64, 5.0f));
}

// --- Results that depend on the schedule ---------------------------------------------------------

// What a launch ends with when its schedules are compared.
std::string compared(Body body, const OnDevice<float>& memory, const LaunchConfig& config) {
  const WithSchedule with("compare");
  return fault_of([&] { launch({}, "compared", body, config, memory.data()); });
}

TEST(Schedules, ComparedTellWhoWroteWhatDiffers) {
  const OnDevice<float> memory(std::vector<float>(256, 1.0f));
  // Thread 70 of block 2 reads what thread 5 may have written or not. All others are blameless.
  const Body race = [](float* out) {
    SharedMemory shared;
    const auto value = shared.take<float>(1);
    if (threadIdx.x == 5) store(value, 3.0f);
    if (blockIdx.x != 2) sync_threads();
    if (threadIdx.x == 70) store(out + 40 + blockIdx.x, load(value));
  };
  expect_in(compared(race, memory, {.grid = {4}, .block = {128}, .shared_bytes = 4}),
            {"kernel compared, block (2,0,0) of (4,1,1), thread 70 of 128: ",
             "the result depends on the schedule: byte 168 of an allocation of 1024 bytes is 0x",
             "under lazy and 0x"});
  // Two blocks write one element.
  const Body same_place = [](float* out) {
    if (threadIdx.x == 0) store(out + 7, static_cast<float>(blockIdx.x));
  };
  expect_in(compared(same_place, memory, {.grid = {64}, .block = {32}}),
            {"kernel compared, block (", "thread 0 of 32: the result depends on the schedule"});
}

TEST(Schedules, ComparedStartFromTheSameMemory) {
  const OnDevice<float> memory(std::vector<float>(128, 1.0f));
  const Body add = [](float* out) {
    float* const mine = out + threadIdx.x;
    store(mine, load(mine) + 1.0f);
  };
  EXPECT_EQ(compared(add, memory, {.grid = {1}, .block = {128}}), "");
  EXPECT_EQ(memory.values(), std::vector<float>(128, 2.0f));
}

TEST(Schedules, AreReadFromText) {
  EXPECT_EQ(to_string(parse_schedule("eager")), "eager");
  EXPECT_EQ(to_string(parse_schedule("lazy")), "lazy");
  EXPECT_EQ(to_string(parse_schedule("random:17")), "random:17");
  EXPECT_EQ(to_string(parse_schedule("compare")), "compare");
  for (const char* text : {"", "Eager", "random", "random:", "random:x", "random:-1"}) {
    EXPECT_THROW(parse_schedule(text), std::invalid_argument) << text;
  }
}

}  // namespace
}  // namespace engine::kernels::simt::testing
