// Bugs that hardware may not show for months, seeded into a small kernel: the software GPU must
// fault, or give a wrong or a schedule-dependent result, for every one of them.
//
// The kernel is D[64, 64] = A · Bᵀ over `steps` * 64 k, as matmul/wgmma.cu does it: a loading
// thread, a ring of two slots, a multiplying warpgroup, stores through shared memory.
#include <set>

#include "kernels/cuda/device/cluster.h"
#include "kernels/cuda/device/warp.h"
#include "kernels/cuda/device/wgmma.h"
#include "tests/kernels/simt/support.h"

namespace engine::kernels::simt::testing {
namespace {

enum class Bug {
  none,
  wrong_parity,             // the loading thread waits for the wrong phase
  no_empty_wait,            // ... or not at all
  early_release,            // slots are given back before the wgmma that reads them is done
  no_final_wait,            // accumulators are read while a wgmma is under way
  no_proxy_fence,           // ordinary stores, then TMA
  wrong_stride,             // of a matrix descriptor
  too_many_bytes_expected,  // by the full barrier
  too_few_bytes_expected,
  stage_reused,          // before TMA has read it
  no_init_fence,         // of the mbarriers
  no_wgmma_fence,        //
  accumulators_touched,  // while a wgmma is under way
  arrival_missing,       // of one warp, at the empty barrier
  output_left_out,       // the last rows
  no_read_wait_at_end,   // the block ends while TMA still reads its memory
};

constexpr int kSteps = 5;

struct Arguments {
  TensorMap a, b, d;
};

template <Bug bug>
void pipeline_kernel(const Arguments arguments) {
  SharedMemory shared;
  const auto tiles = shared.take<BFloat16>(2 * 2 * 64 * 64, 1024);
  const auto stages = shared.take<float>(4 * 16 * 32, 1024);
  const MbarrierAddress full = shared.take<uint64_t>(2), empty = shared.take<uint64_t>(2);
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < 2; ++slot) {
      mbarrier_init(full + slot, 1);
      mbarrier_init(empty + slot, 4);
    }
    if (bug != Bug::no_init_fence) fence_mbarrier_init();
  }
  sync_threads();
  RingPosition<2> at;
  if (threadIdx.x >= kWarpgroup) {
    if (warp_index() != 4 || !elect_lane()) return;
    for (int step = 0; step < kSteps; ++step, at.advance()) {
      if (bug != Bug::no_empty_wait) {
        mbarrier_wait(empty + at.slot, bug == Bug::wrong_parity ? at.parity : at.parity ^ 1);
      }
      const int wrong = bug == Bug::too_many_bytes_expected  ? 16
                        : bug == Bug::too_few_bytes_expected ? -8192
                                                             : 0;
      mbarrier_arrive_expect(full + at.slot, 2 * 64 * 64 * 2 + wrong);
      tensor_load(tiles + at.slot * 8192, arguments.a, full + at.slot, Coordinate2{64 * step, 0});
      tensor_load(tiles + at.slot * 8192 + 4096, arguments.b, full + at.slot,
                  Coordinate2{64 * step, 0});
    }
    return;
  }
  const auto release = [&](int slot) {
    if (lane_index() == 0 && !(bug == Bug::arrival_missing && warp_index() == 3)) {
      mbarrier_arrive(empty + slot);
    }
  };
  float sums[32];
  int previous = 0;
  for (int step = 0; step < kSteps; ++step) {
    mbarrier_wait(full + at.slot, at.parity);
    MatrixTile<Major::k> a(tiles + at.slot * 8192), b(tiles + at.slot * 8192 + 4096);
    if (bug == Bug::wrong_stride) b.descriptor -= uint64_t{512 / 16} << 32;
    if (bug != Bug::no_wgmma_fence) warpgroup_fence();
    for (int k = 0; k < 64; k += 16) wgmma<64>(sums, a.at_k(k), b.at_k(k), step > 0 || k > 0);
    warpgroup_commit();
    if (bug == Bug::accumulators_touched && step == 2) sums[5] *= 2.0f;
    if (bug == Bug::early_release) release(at.slot);
    warpgroup_wait<1>();
    if (bug != Bug::early_release && step > 0) release(previous);
    previous = at.slot;
    at.advance();
  }
  if (bug != Bug::no_final_wait) warpgroup_wait<0>();
  const int warp = warp_index(), lane = lane_index();
  const auto stage = stages + warp * 16 * 32;
  for (int part = 0; part < 2; ++part) {
    if (part > 0) {
      if (lane == 0 && bug != Bug::stage_reused) bulk_wait_group_read<0>();
      sync_warp();
    }
    for (int i = 0; i < 16; ++i) {
      const int row = lane / 4 + 8 * (i >> 1 & 1), column = i / 4 * 8 + 2 * (lane % 4) + (i & 1);
      const auto offset = swizzled_offset(static_cast<uint32_t>(row * 128 + column * 4));
      store(stage + static_cast<int>(offset) / 4, sums[part * 16 + i]);
    }
    if (bug != Bug::no_proxy_fence) fence_async_proxy();
    sync_warp();
    if (lane == 0 && !(bug == Bug::output_left_out && warp == 3)) {
      tensor_store(arguments.d, stage, Coordinate2{32 * part, 16 * warp});
      bulk_commit_group();
    }
  }
  if (lane == 0 && bug != Bug::no_read_wait_at_end) bulk_wait_group_read<0>();
}

// "right", "wrong", or the fault.
template <Bug bug>
std::string outcome(const std::string& schedule) {
  const WithSchedule with(schedule);
  const auto a = small_integers(64 * 64 * kSteps, 21), b = small_integers(64 * 64 * kSteps, 22);
  const OnDevice<BFloat16> device_a(to_bf16(a)), device_b(to_bf16(b));
  const OnDevice<float> d(64 * 64);
  const auto operand = [](const BFloat16* x) {
    return make_tensor_map(
        {.base = x, .size = {64 * kSteps, 64}, .stride = {64 * kSteps}, .box = {64, 64}});
  };
  const Arguments arguments{operand(device_a.data()), operand(device_b.data()),
                            make_tensor_map({.base = d.data(),
                                             .dtype = DType::f32,
                                             .size = {64, 64},
                                             .stride = {64},
                                             .box = {32, 16}})};
  const std::string fault = fault_of([&] {
    launch({}, "pipeline", pipeline_kernel<bug>,
           {.grid = {1}, .block = {2 * kWarpgroup}, .shared_bytes = 32768 + 8192 + 32}, arguments);
  });
  if (!fault.empty()) return fault;
  const auto values = d.values();
  for (int i = 0; i < 64; ++i) {
    for (int j = 0; j < 64; ++j) {
      float expected = 0;
      for (int k = 0; k < 64 * kSteps; ++k) {
        expected += a[i * 64 * kSteps + k] * b[j * 64 * kSteps + k];
      }
      if (!(values[i * 64 + j] == expected)) return "wrong";
    }
  }
  return "right";
}

// Every schedule but those listed in `survives` shows the bug.
template <Bug bug>
void expect_caught(const std::set<std::string>& survives,
                   const std::vector<std::string>& message = {}) {
  for (const std::string& schedule : all_schedules()) {
    SCOPED_TRACE(schedule);
    const std::string result = outcome<bug>(schedule);
    if (survives.contains(schedule)) {
      EXPECT_EQ(result, "right");
    } else {
      EXPECT_NE(result, "right");
      expect_in(result, message);
    }
  }
}

TEST(SeededBugs, WithoutOneItIsRight) {
  for (const std::string& schedule : all_schedules()) {
    EXPECT_EQ(outcome<Bug::none>(schedule), "right") << schedule;
  }
}

TEST(SeededBugs, WrongParity) {
  expect_caught<Bug::wrong_parity>(
      {}, {"kernel pipeline", "deadlock", "block (0,0,0)", "threads 128-128: mbarrier",
           "threads 0-127: mbarrier", "phase 0 has 0 of 4 arrivals"});
}

TEST(SeededBugs, NoWaitForAnEmptySlot) {
  expect_caught<Bug::no_empty_wait>({});
}

// Kind hardware lets these two pass: never test with the eager schedule alone.
TEST(SeededBugs, SlotReleasedTooEarly) {
  EXPECT_EQ(outcome<Bug::early_release>("eager"), "right");
  EXPECT_NE(outcome<Bug::early_release>("lazy"), "right");
  int shown = 0;
  for (int seed = 1; seed <= 8; ++seed) {
    shown += outcome<Bug::early_release>("random:" + std::to_string(seed)) != "right";
  }
  EXPECT_GE(shown, 4);
}

TEST(SeededBugs, NoFinalWait) {
  EXPECT_EQ(outcome<Bug::no_final_wait>("eager"), "right");
  expect_in(outcome<Bug::no_final_wait>("lazy"), {"kernel pipeline", "wgmma was under way"});
  int shown = 0;
  for (int seed = 1; seed <= 8; ++seed) {
    shown += outcome<Bug::no_final_wait>("random:" + std::to_string(seed)) != "right";
  }
  EXPECT_GE(shown, 4);
}

TEST(SeededBugs, NoProxyFence) {
  expect_caught<Bug::no_proxy_fence>(
      {}, {"kernel pipeline, block (0,0,0) of (1,1,1), thread", "a bulk store reads shared memory",
           "without a fence.proxy.async"});
}

TEST(SeededBugs, WrongDescriptorStride) {
  expect_caught<Bug::wrong_stride>({}, {"wrong"});
}

TEST(SeededBugs, WrongByteCounts) {
  expect_caught<Bug::too_many_bytes_expected>({}, {"deadlock", "misses 16 bytes"});
  EXPECT_NE(outcome<Bug::too_few_bytes_expected>("lazy"), "right");
}

TEST(SeededBugs, StageReused) {
  EXPECT_EQ(outcome<Bug::stage_reused>("eager"), "right");
  EXPECT_EQ(outcome<Bug::stage_reused>("lazy"), "wrong");
}

TEST(SeededBugs, NoFenceOfNewMbarriers) {
  expect_caught<Bug::no_init_fence>({}, {"thread 128 of 256", "without fence.mbarrier_init"});
}

TEST(SeededBugs, NoWgmmaFence) {
  expect_caught<Bug::no_wgmma_fence>({}, {"kernel pipeline", "no wgmma.fence"});
}

TEST(SeededBugs, AccumulatorsTouched) {
  expect_in(outcome<Bug::accumulators_touched>("lazy"),
            {"kernel pipeline", "accumulator 5 of lane", "under way"});
}

TEST(SeededBugs, ArrivalMissing) {
  expect_caught<Bug::arrival_missing>(
      {}, {"deadlock", "threads 128-128: mbarrier", "phase 0 has 3 of 4 arrivals"});
}

TEST(SeededBugs, OutputLeftOut) {
  expect_caught<Bug::output_left_out>({}, {"wrong"});
}

TEST(SeededBugs, BlockEndsWhileTmaReads) {
  expect_in(outcome<Bug::no_read_wait_at_end>("lazy"),
            {"kernel pipeline", "a bulk store reads", "already returned"});
}

// --- A in registers ------------------------------------------------------------------------------

// D = A · B with A in registers, all ones; the bug is to make the next A before the wait.
template <bool early>
void registers_kernel(float* out) {
  SharedMemory shared;
  const auto tile = shared.take<BFloat16>(64 * 64, 1024);
  for (int i = static_cast<int>(threadIdx.x); i < 4096; i += kWarpgroup) {
    store(tile + i, from_float<BFloat16>(1.0f));
  }
  fence_async_proxy();
  sync_threads();
  float d[32];
  uint32_t a[4];
  for (uint32_t& pair : a) pair = pack_bf16(1.0f, 1.0f);
  for (int turn = 0; turn < 2; ++turn) {
    warpgroup_fence();
    wgmma<64>(d, a, MatrixTile<Major::k>(tile), turn > 0);
    warpgroup_commit();
    if (!early) warpgroup_wait<0>();
    for (uint32_t& pair : a) pair = pack_bf16(2.0f, 2.0f);
    if (early) warpgroup_wait<0>();
  }
  store(out + static_cast<int>(threadIdx.x), d[0]);
}

TEST(SeededBugs, RegistersOfATouched) {
  const OnDevice<float> out(128);
  const LaunchConfig config{.grid = {1}, .block = {128}, .shared_bytes = 8192};
  under_all_schedules([&] {
    EXPECT_EQ(fault_of([&] { launch({}, "rs", registers_kernel<false>, config, out.data()); }), "");
    EXPECT_EQ(out.values(), std::vector<float>(128, 48.0f));
  });
  const WithSchedule lazy("lazy");
  expect_in(fault_of([&] { launch({}, "rs", registers_kernel<true>, config, out.data()); }),
            {"kernel rs, block (0,0,0)", "a register of A of lane 0 was written while a wgmma"});
}

// --- Without pipelines ---------------------------------------------------------------------------

// out[i] = 2 x[i] for i < count, and one more with the bug.
template <bool off_by_one>
void double_kernel(const float* x, float* out, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (off_by_one ? i <= count : i < count) store(out + i, 2.0f * load(x + i));
}

TEST(SeededBugs, OffByOneMask) {
  const OnDevice<float> x(std::vector<float>(100, 1.0f)), out(100);
  const LaunchConfig config{.grid = {4}, .block = {32}};
  const auto* const from = static_cast<const float*>(x.data());
  EXPECT_EQ(
      fault_of([&] { launch({}, "double", double_kernel<false>, config, from, out.data(), 100); }),
      "");
  expect_in(
      fault_of([&] { launch({}, "double", double_kernel<true>, config, from, out.data(), 100); }),
      {"kernel double", "block (3,0,0) of (4,1,1)", "thread 4 of 32",
       "out-of-bounds read of 4 bytes", "4 bytes past the end", "of 400 bytes"});
}

// Reverses 128 numbers; the bug is the missing barrier.
template <bool barrier>
void reverse_kernel(const float* x, float* out) {
  SharedMemory shared;
  const auto values = shared.take<float>(128);
  const int thread = static_cast<int>(threadIdx.x);
  store(values + thread, load(x + thread));
  if (barrier) sync_threads();
  store(out + thread, load(values + (127 - thread)));
}

TEST(SeededBugs, MissingBarrierGivesOtherBitsUnderOtherSchedules) {
  const auto host = small_integers(128, 31);
  std::vector<std::vector<uint32_t>> with, without;
  for (const std::string& schedule : all_schedules()) {
    const WithSchedule now(schedule);
    const OnDevice<float> x(host), a(128), b(128);
    const LaunchConfig config{.grid = {1}, .block = {128}, .shared_bytes = 512};
    launch({}, "reverse", reverse_kernel<true>, config, static_cast<const float*>(x.data()),
           a.data());
    launch({}, "reverse", reverse_kernel<false>, config, static_cast<const float*>(x.data()),
           b.data());
    const auto bits = [](const std::vector<float>& values) {
      std::vector<uint32_t> result;
      for (float value : values) result.push_back(std::bit_cast<uint32_t>(value));
      return result;
    };
    with.push_back(bits(a.values()));
    without.push_back(bits(b.values()));
  }
  // One launch is enough where its schedules are compared.
  const WithSchedule compare("compare");
  const OnDevice<float> x(host), out(128);
  const LaunchConfig config{.grid = {1}, .block = {128}, .shared_bytes = 512};
  const auto* const from = static_cast<const float*>(x.data());
  EXPECT_EQ(
      fault_of([&] { launch({}, "reverse", reverse_kernel<true>, config, from, out.data()); }), "");
  expect_in(
      fault_of([&] { launch({}, "reverse", reverse_kernel<false>, config, from, out.data()); }),
      {"kernel reverse, block (0,0,0) of (1,1,1), thread", "the result depends on the schedule"});
  for (const auto& other : with) EXPECT_EQ(other, with[0]);
  EXPECT_GT(std::set(without.begin(), without.end()).size(), 1u);
  for (const auto& wrong : without) EXPECT_NE(wrong, with[0]);
}

}  // namespace
}  // namespace engine::kernels::simt::testing
