// The counters, on kernels whose numbers are known.
#include "kernels/simt/counters.h"

#include "kernels/cuda/device/math.h"
#include "kernels/cuda/device/mma.h"
#include "kernels/cuda/device/tma.h"
#include "kernels/cuda/device/warp.h"
#include "kernels/cuda/device/wgmma.h"
#include "tests/kernels/simt/support.h"

namespace engine::kernels::simt::testing {
namespace {

// Counts one launch of `body` in order, lazily: the accesses of a warp can be put together then.
using Body = void (*)(float* memory);
KernelWork count(Body body, const LaunchConfig& config = {.grid = {1}, .block = {32}}) {
  const WithSchedule schedule("lazy");
  const OnDevice<float> memory(std::vector<float>(4096, 1.0f));
  start_counting();
  launch({}, "counted", body, config, memory.data());
  const auto counted = stop_counting();
  EXPECT_EQ(counted.size(), 1u);
  return counted.at("counted");
}

int lane() {
  return lane_index();
}

TEST(Counters, LaunchesBlocksAndNothingElse) {
  const KernelWork work = count([](float*) {}, {.grid = {3, 2}, .block = {64}});
  EXPECT_EQ(work.launches, 1);
  EXPECT_EQ(work.blocks, 6);
  EXPECT_EQ(work.global_reads + work.global_writes + work.shared_accesses, 0);
  EXPECT_EQ(work.tensor_flops + work.special_functions, 0);
  EXPECT_EQ(work.global_efficiency(), 1.0);
  EXPECT_EQ(work.shared_conflicts(), 1.0);
}

// Also what a warp does after it was last together, in every block.
TEST(Counters, NeighboursShareSectors) {
  const KernelWork work =
      count([](float* memory) { store(memory + lane(), load(memory + 32 + lane())); },
            {.grid = {5}, .block = {96}});
  EXPECT_EQ(work.global_reads, 15);
  EXPECT_EQ(work.global_read_bytes, 15 * 128);
  EXPECT_EQ(work.global_read_sectors, 15 * 4);
  EXPECT_EQ(work.global_writes, 15);
  EXPECT_EQ(work.global_write_bytes, 15 * 128);
  EXPECT_EQ(work.global_write_sectors, 15 * 4);
  EXPECT_EQ(work.global_efficiency(), 1.0);
}

TEST(Counters, StridesWasteSectors) {
  const KernelWork work = count([](float* memory) { load(memory + 8 * lane()); });
  EXPECT_EQ(work.global_reads, 1);
  EXPECT_EQ(work.global_read_bytes, 128);
  EXPECT_EQ(work.global_read_sectors, 32);
  EXPECT_EQ(work.global_efficiency(), 0.125);
}

TEST(Counters, SharedBytesCountOnce) {
  const KernelWork work = count([](float* memory) {
    load(memory + 5);
    sync_warp();
    load_vector<4>(memory + 4 * lane());
  });
  EXPECT_EQ(work.global_reads, 2);
  EXPECT_EQ(work.global_read_bytes, 4 + 512);
  EXPECT_EQ(work.global_read_sectors, 1 + 16);
}

// Passes of one read of shared memory by a warp: lane l reads word `stride * l`.
template <int stride>
KernelWork strided() {
  return count(
      [](float*) {
        SharedMemory shared;
        const auto words = shared.take<float>(32 * 33);
        load(words + stride * lane());
      },
      {.grid = {1}, .block = {32}, .shared_bytes = 32 * 33 * 4});
}

TEST(Counters, BanksOfSharedMemory) {
  EXPECT_EQ(strided<0>().shared_passes, 1);  // a broadcast
  EXPECT_EQ(strided<1>().shared_passes, 1);
  EXPECT_EQ(strided<2>().shared_passes, 2);
  EXPECT_EQ(strided<8>().shared_passes, 8);
  EXPECT_EQ(strided<32>().shared_passes, 32);
  EXPECT_EQ(strided<33>().shared_passes, 1);
  EXPECT_EQ(strided<32>().shared_conflicts(), 32.0);
  EXPECT_EQ(strided<33>().shared_accesses, 1);
  const KernelWork vectors = count(
      [](float*) {
        SharedMemory shared;
        load_vector<4>(shared.take<float>(128) + 4 * lane());
      },
      {.grid = {1}, .block = {32}, .shared_bytes = 512});
  EXPECT_EQ(vectors.shared_passes, 4);  // eight lanes at a time
  EXPECT_EQ(vectors.shared_conflicts(), 1.0);
}

TEST(Counters, TensorCoresAndSpecialFunctions) {
  const KernelWork work = count(
      [](float*) {
        float d[4] = {};
        const uint32_t a[4] = {}, b[2] = {};
        mma_bf16(d, a, b);
        exp2_approx(1.0f);
        reciprocal_approx(2.0f);
      },
      {.grid = {2}, .block = {64}});
  EXPECT_EQ(work.tensor_flops, 2 * 2 * (2 * 16 * 8 * 16));
  EXPECT_EQ(work.special_functions, 2 * 64 * 2);
}

TEST(Counters, Warpgroups) {
  const KernelWork work = count(
      [](float*) {
        SharedMemory shared;
        const MatrixTile<Major::k> tile(shared.take<BFloat16>(64 * 64, 1024));
        float d[32];
        warpgroup_fence();
        wgmma<64>(d, tile, tile, false);
        warpgroup_commit();
        warpgroup_wait<0>();
      },
      {.grid = {1}, .block = {128}, .shared_bytes = 8192});
  EXPECT_EQ(work.tensor_flops, 2 * 64 * 64 * 16);
}

TEST(Counters, BulkCopies) {
  const KernelWork work = count(
      [](float* memory) {
        SharedMemory shared;
        const auto data = shared.take<float>(64, 128);
        const MbarrierAddress barrier = shared.take<uint64_t>(1);
        if (threadIdx.x != 0) return;
        mbarrier_init(barrier, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect(barrier, 256);
        bulk_load(data, memory, 64, barrier);
        mbarrier_wait(barrier, 0);
        bulk_store(memory + 64, data, 32);
        bulk_commit_group();
        bulk_wait_group<0>();
      },
      {.grid = {1}, .block = {32}, .shared_bytes = 256 + 8});
  EXPECT_EQ(work.bulk_read_bytes, 256);
  EXPECT_EQ(work.bulk_write_bytes, 128);
  EXPECT_EQ(work.global_read_sectors + work.global_write_sectors, 0);
}

// Of a box that hangs over the edge of a tensor only what is inside is moved.
TEST(Counters, TensorCopiesAtAnEdge) {
  const WithSchedule schedule("lazy");
  const OnDevice<float> x(std::vector<float>(32 * 32, 1.0f));
  const TensorMap map = make_tensor_map(
      {.base = x.data(), .dtype = DType::f32, .size = {32, 32}, .stride = {32}, .box = {32, 8}});
  void (*const body)(TensorMap) = [](const TensorMap map) {
    SharedMemory shared;
    const auto tile = shared.take<float>(256, 1024);
    const MbarrierAddress barrier = shared.take<uint64_t>(1);
    if (threadIdx.x != 0) return;
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(barrier, 1024);
    tensor_load(tile, map, barrier, Coordinate2{4, 29});
    mbarrier_wait(barrier, 0);
    tensor_store(map, tile, Coordinate2{-8, 2});
    bulk_commit_group();
    bulk_wait_group<0>();
  };
  start_counting();
  launch({}, "edge", body, {.grid = {1}, .block = {32}, .shared_bytes = 1032}, map);
  const KernelWork work = stop_counting().at("edge");
  EXPECT_EQ(work.bulk_read_bytes, 28 * 3 * 4);
  EXPECT_EQ(work.bulk_write_bytes, 24 * 8 * 4);
}

// The same numbers whatever the number of OS threads, one name for each kernel.
TEST(Counters, LaunchesAddUp) {
  const WithSchedule schedule("lazy");
  const OnDevice<float> memory(4096);
  const Body body = [](float* to) { store(to + lane(), 1.0f); };
  start_counting();
  for (int i = 0; i < 3; ++i) {
    launch({}, "first", body, {.grid = {7}, .block = {32}}, memory.data());
  }
  launch({}, "second", body, {.grid = {1}, .block = {32}}, memory.data());
  const auto counted = stop_counting();
  ASSERT_EQ(counted.size(), 2u);
  EXPECT_EQ(counted.at("first").launches, 3);
  EXPECT_EQ(counted.at("first").blocks, 21);
  EXPECT_EQ(counted.at("first").global_write_sectors, 84);
  EXPECT_EQ(counted.at("second").launches, 1);
  // and nothing is counted any more
  launch({}, "third", body, {.grid = {1}, .block = {32}}, memory.data());
  start_counting();
  EXPECT_TRUE(stop_counting().empty());
}

}  // namespace
}  // namespace engine::kernels::simt::testing
