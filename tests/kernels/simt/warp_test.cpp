// Warps, barriers, fragments and cp.async on the software GPU, against plain loops.
#include "kernels/cuda/device/warp.h"

#include <array>

#include "kernels/cuda/device/cluster.h"
#include "kernels/cuda/device/cp_async.h"
#include "kernels/cuda/device/mma.h"
#include "tests/kernels/simt/support.h"

namespace engine::kernels::simt::testing {
namespace {

// --- Shuffles and votes ------------------------------------------------------------------------

void shuffle_kernel(const float* x, float* out) {
  const int lane = lane_index();
  const float value = load(x + lane);
  store(out + lane, shuffle(value, (lane * 5 + 3) % kWarp));
  store(out + 32 + lane, shuffle_xor(value, 9));
  store(out + 64 + lane, shuffle_up(value, 3));
  store(out + 96 + lane, warp_sum(value));
  store(out + 128 + lane, warp_sum<8>(value));
  store(out + 160 + lane, warp_max(value));
  store(out + 192 + lane, static_cast<float>(ballot(value > 0) & 0xffff));
  store(out + 224 + lane, static_cast<float>(ballot(value > 0) >> 16));
}

TEST(Warp, ShufflesVotesAndSums) {
  const auto x = small_integers(32, 7);
  under_all_schedules([&] {
    const OnDevice<float> device(x), out(256);
    launch({}, "shuffle", shuffle_kernel, {.grid = {1}, .block = {32}},
           static_cast<const float*>(device.data()), out.data());
    const auto y = out.values();
    float sum = 0, maximum = -10;
    uint32_t positive = 0;
    for (int lane = 0; lane < 32; ++lane) {
      sum += x[lane];
      maximum = std::max(maximum, x[lane]);
      positive |= static_cast<uint32_t>(x[lane] > 0) << lane;
    }
    for (int lane = 0; lane < 32; ++lane) {
      float eight = 0;
      for (int i = lane / 8 * 8; i < lane / 8 * 8 + 8; ++i) eight += x[i];
      EXPECT_EQ(y[lane], x[(lane * 5 + 3) % 32]);
      EXPECT_EQ(y[32 + lane], x[lane ^ 9]);
      EXPECT_EQ(y[64 + lane], x[lane < 3 ? lane : lane - 3]);
      EXPECT_EQ(y[96 + lane], sum);
      EXPECT_EQ(y[128 + lane], eight);
      EXPECT_EQ(y[160 + lane], maximum);
      EXPECT_EQ(y[192 + lane], static_cast<float>(positive & 0xffff));
      EXPECT_EQ(y[224 + lane], static_cast<float>(positive >> 16));
    }
  });
}

// --- Barriers ----------------------------------------------------------------------------------

void block_kernel(const float* x, float* out) {
  SharedMemory shared;
  const auto values = shared.take<float>(128), scratch = shared.take<float>(4);
  const int thread = static_cast<int>(threadIdx.x);
  const float value = load(x + static_cast<int>(blockIdx.x) * 128 + thread);
  store(values + thread, value);
  sync_threads();
  float* const to = out + static_cast<int>(blockIdx.x) * 384;
  store(to + thread, load(values + (127 - thread)));
  store(to + 128 + thread, block_sum(value, scratch));
  store(to + 256 + thread, block_max(value, scratch));
}

TEST(Block, BarriersAndReductions) {
  const auto x = small_integers(5 * 128, 8);
  under_all_schedules([&] {
    const OnDevice<float> device(x), out(5 * 384);
    launch({}, "block", block_kernel, {.grid = {5}, .block = {128}, .shared_bytes = 132 * 4},
           static_cast<const float*>(device.data()), out.data());
    const auto y = out.values();
    for (int block = 0; block < 5; ++block) {
      float sum = 0, maximum = -10;
      for (int i = 0; i < 128; ++i) {
        sum += x[block * 128 + i];
        maximum = std::max(maximum, x[block * 128 + i]);
      }
      for (int i = 0; i < 128; ++i) {
        ASSERT_EQ(y[block * 384 + i], x[block * 128 + 127 - i]);
        ASSERT_EQ(y[block * 384 + 128 + i], sum);
        ASSERT_EQ(y[block * 384 + 256 + i], maximum);
      }
    }
  });
}

// Warp 0 produces for warp 1; each arrives at one barrier and waits at the other.
void named_kernel(float* out) {
  SharedMemory shared;
  const auto value = shared.take<float>(32);
  for (int i = 0; i < 3; ++i) {
    if (warp_index() == 0) {
      if (i > 0) sync_named_barrier(2, 64);
      store(value + lane_index(), static_cast<float>(10 * i + lane_index()));
      arrive_named_barrier(1, 64);
    } else {
      sync_named_barrier(1, 64);
      store(out + i * 32 + lane_index(), load(value + (31 - lane_index())));
      if (i < 2) arrive_named_barrier(2, 64);
    }
  }
}

TEST(Block, NamedBarriers) {
  under_all_schedules([] {
    const OnDevice<float> out(96);
    launch({}, "named", named_kernel, {.grid = {1}, .block = {64}, .shared_bytes = 128},
           out.data());
    for (int i = 0; i < 96; ++i) ASSERT_EQ(out.values()[i], 10 * (i / 32) + 31 - i % 32);
  });
}

// Each block reads its neighbour's memory between two barriers of the cluster.
void cluster_kernel(float* out) {
  SharedMemory shared;
  const auto value = shared.take<float>(32);
  store(value + lane_index(), static_cast<float>(100 * blockIdx.x + lane_index()));
  arrive_cluster_barrier();
  wait_cluster_barrier();
  const int other = (cluster_rank() + 1) % cluster_size();
  store(out + static_cast<int>(blockIdx.x) * 32 + lane_index(),
        load(at_rank(value, other) + lane_index()));
  sync_cluster();
}

TEST(Cluster, ReadsTheNeighboursMemory) {
  under_all_schedules([] {
    const OnDevice<float> out(8 * 32);
    launch({}, "cluster", cluster_kernel,
           {.grid = {8}, .block = {32}, .cluster = 4, .shared_bytes = 128}, out.data());
    for (int i = 0; i < 256; ++i) {
      const int block = i / 32, other = block / 4 * 4 + (block + 1) % 4;
      ASSERT_EQ(out.values()[i], 100 * other + i % 32);
    }
  });
}

// --- Fragments ---------------------------------------------------------------------------------

// D [16,8] = A [16,16] B [16,8]: A by ldmatrix, B by ldmatrix from its transpose (x2) or from
// itself (transposed).
void mma_kernel(const BFloat16* a, const BFloat16* b, const BFloat16* b_transposed, float* d) {
  SharedMemory shared;
  const auto tile_a = shared.take<BFloat16>(16 * 16), tile_b = shared.take<BFloat16>(16 * 8),
             tile_bt = shared.take<BFloat16>(8 * 16);
  const int lane = lane_index();
  for (int i = lane; i < 256; i += kWarp) store(tile_a + i, load(a + i));
  for (int i = lane; i < 128; i += kWarp) store(tile_b + i, load(b + i));
  for (int i = lane; i < 128; i += kWarp) store(tile_bt + i, load(b_transposed + i));
  sync_warp();
  uint32_t fragment[4], column[2];
  // matrices in the order of the registers: rows 0-7, 8-15, then the right half
  load_matrix_x4(fragment, tile_a + lane % 16 * 16 + lane / 16 * 8);
  for (const bool transposed : {false, true}) {
    if (transposed) {
      load_matrix_x2<true>(column, tile_b + lane % 16 * 8);
    } else {
      load_matrix_x2(column, tile_bt + lane % 8 * 16 + lane / 8 % 2 * 8);
    }
    float sums[4] = {1, 2, 3, 4};
    mma_bf16(sums, fragment, column);
    for (int q = 0; q < 4; ++q) {
      const int row = lane / 4 + 8 * (q >> 1), at = 2 * (lane % 4) + (q & 1);
      store(d + 128 * transposed + row * 8 + at, sums[q] - static_cast<float>(q + 1));
    }
  }
}

TEST(Fragments, MatrixLoadsAndBf16Products) {
  const auto a = small_integers(256, 11), b = small_integers(128, 12);
  std::vector<float> transposed(128);
  for (int k = 0; k < 16; ++k) {
    for (int j = 0; j < 8; ++j) transposed[j * 16 + k] = b[k * 8 + j];
  }
  under_all_schedules([&] {
    const OnDevice<BFloat16> device_a(to_bf16(a)), device_b(to_bf16(b)),
        device_t(to_bf16(transposed));
    const OnDevice<float> d(256);
    launch({}, "mma", mma_kernel, {.grid = {1}, .block = {32}, .shared_bytes = 1024},
           static_cast<const BFloat16*>(device_a.data()),
           static_cast<const BFloat16*>(device_b.data()),
           static_cast<const BFloat16*>(device_t.data()), d.data());
    const auto values = d.values();
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 8; ++j) {
        float expected = 0;
        for (int k = 0; k < 16; ++k) expected += a[i * 16 + k] * b[k * 8 + j];
        ASSERT_EQ(values[i * 8 + j], expected) << i << " " << j;
        ASSERT_EQ(values[128 + i * 8 + j], expected) << i << " " << j;
      }
    }
  });
}

void tf32_kernel(const float* a, const float* b, float* d) {
  const int g = lane_index() / 4, t = lane_index() % 4;
  uint32_t fragment_a[4], fragment_b[2];
  for (int r = 0; r < 4; ++r) {
    fragment_a[r] = to_tf32(load(a + (g + 8 * (r & 1)) * 8 + t + 4 * (r >> 1)));
  }
  for (int r = 0; r < 2; ++r) fragment_b[r] = to_tf32(load(b + (t + 4 * r) * 8 + g));
  float sums[4] = {};
  mma_tf32(sums, fragment_a, fragment_b);
  for (int q = 0; q < 4; ++q) store(d + (g + 8 * (q >> 1)) * 8 + 2 * t + (q & 1), sums[q]);
}

TEST(Fragments, Tf32Products) {
  const auto a = small_integers(128, 13), b = small_integers(64, 14);
  const OnDevice<float> device_a(a), device_b(b), d(128);
  launch({}, "tf32", tf32_kernel, {.grid = {1}, .block = {32}},
         static_cast<const float*>(device_a.data()), static_cast<const float*>(device_b.data()),
         d.data());
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 8; ++j) {
      float expected = 0;
      for (int k = 0; k < 8; ++k) expected += a[i * 8 + k] * b[k * 8 + j];
      ASSERT_EQ(d.values()[i * 8 + j], expected);
    }
  }
}

// stmatrix writes what ldmatrix read, as it was or transposed.
void stmatrix_kernel(const BFloat16* x, BFloat16* out) {
  SharedMemory shared;
  const auto from = shared.take<BFloat16>(256), to = shared.take<BFloat16>(256);
  const int lane = lane_index();
  for (int i = lane; i < 256; i += kWarp) store(from + i, load(x + i));
  sync_warp();
  for (const bool transposed : {false, true}) {
    uint32_t r[4];
    load_matrix_x4(r, from + lane * 8);
    if (transposed) {
      store_matrix_x4<true>(to + lane * 8, r);
    } else {
      store_matrix_x4(to + lane * 8, r);
    }
    sync_warp();
    for (int i = lane; i < 256; i += kWarp) store(out + 256 * transposed + i, load(to + i));
    sync_warp();
  }
}

TEST(Fragments, MatrixStores) {
  const auto x = small_integers(256, 15);
  under_all_schedules([&] {
    const OnDevice<BFloat16> device(to_bf16(x)), out(512);
    launch({}, "stmatrix", stmatrix_kernel, {.grid = {1}, .block = {32}, .shared_bytes = 1024},
           static_cast<const BFloat16*>(device.data()), out.data());
    const auto y = out.values();
    for (int q = 0; q < 4; ++q) {
      for (int i = 0; i < 8; ++i) {
        for (int j = 0; j < 8; ++j) {
          const int at = q * 64 + i * 8 + j;
          ASSERT_EQ(static_cast<float>(y[at]), x[at]);
          ASSERT_EQ(static_cast<float>(y[256 + at]), x[q * 64 + j * 8 + i]);
        }
      }
    }
  });
}

// --- cp.async ----------------------------------------------------------------------------------

// Three groups in flight; the last 16 bytes of each are not valid.
void copy_kernel(const float* x, float* out) {
  SharedMemory shared;
  const auto tile = shared.take<float>(3 * 128);
  const int lane = lane_index();
  for (int group = 0; group < 3; ++group) {
    copy_async_16(tile + group * 128 + lane * 4, x + group * 128 + lane * 4, lane < 31);
    copy_async_commit_group();
  }
  copy_async_wait_group<1>();
  sync_warp();
  for (int i = lane; i < 256; i += kWarp) store(out + i, load(tile + i));
  copy_async_wait_group<0>();
  sync_warp();
  for (int i = 256 + lane; i < 384; i += kWarp) store(out + i, load(tile + i));
}

TEST(CpAsync, GroupsArriveInOrder) {
  const auto x = small_integers(384, 16);
  under_all_schedules([&] {
    const OnDevice<float> device(x), out(384);
    launch({}, "copy", copy_kernel, {.grid = {1}, .block = {32}, .shared_bytes = 384 * 4},
           static_cast<const float*>(device.data()), out.data());
    for (int i = 0; i < 384; ++i) ASSERT_EQ(out.values()[i], i % 128 < 124 ? x[i] : 0.0f) << i;
  });
}

}  // namespace
}  // namespace engine::kernels::simt::testing
