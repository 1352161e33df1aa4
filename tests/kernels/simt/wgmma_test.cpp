// wgmma on the software GPU: fragments, tiles and asynchrony, against plain loops.
#include "kernels/cuda/device/wgmma.h"
#include "kernels/cuda/device/cluster.h"
#include "kernels/cuda/device/warp.h"
#include "tests/kernels/simt/support.h"

namespace engine::kernels::simt::testing {
namespace {

struct Arguments {
  TensorMap a, b;
  const float* c;  // [64][N]: what D starts from
  float* d;
};

// D = C + A · B for one tile of 64 k. A from shared memory, or from registers filled by loads.
template <int N, Major major_a, Major major_b, bool a_in_registers>
void product_kernel(const Arguments arguments, const BFloat16* a_rows) {
  SharedMemory shared;
  const auto a = shared.take<BFloat16>(64 * 64, 1024);
  const auto b = shared.take<BFloat16>(N * 64, 1024);
  const MbarrierAddress barrier = shared.take<uint64_t>(1, 8);
  const int lane = lane_index(), g = lane / 4, t = lane % 4, warp = warp_index();
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(barrier, (64 + N) * 128);
    tensor_load(a, arguments.a, barrier, Coordinate2{0, 0});
    for (int panel = 0; panel < N / 64; ++panel) {
      tensor_load(b + panel * 64 * 64, arguments.b, barrier,
                  major_b == Major::k ? Coordinate2{0, 64 * panel} : Coordinate2{64 * panel, 0});
    }
  }
  sync_threads();
  float d[N / 2];
  for (int i = 0; i < N / 2; ++i) {
    const int row = 16 * warp + g + 8 * (i >> 1 & 1), column = i / 4 * 8 + 2 * t + (i & 1);
    d[i] = load(arguments.c + row * N + column);
  }
  mbarrier_wait(barrier, 0);
  const MatrixTile<major_a> tile_a(a);
  const MatrixTile<major_b> tile_b(b);
  uint32_t fragment[4][4];
  if (a_in_registers) {
    for (int step = 0; step < 4; ++step) {
      for (int r = 0; r < 4; ++r) {
        const int row = 16 * warp + g + 8 * (r & 1), k = 16 * step + 2 * t + 8 * (r >> 1);
        fragment[step][r] = load(reinterpret_cast<const uint32_t*>(a_rows + row * 64 + k));
      }
    }
  }
  warpgroup_fence();
  for (int step = 0; step < 4; ++step) {
    if constexpr (a_in_registers) {
      wgmma<N>(d, fragment[step], tile_b.at_k(16 * step), true);
    } else {
      wgmma<N>(d, tile_a.at_k(16 * step), tile_b.at_k(16 * step), true);
    }
  }
  warpgroup_commit();
  warpgroup_wait<0>();
  for (int i = 0; i < N / 2; ++i) {
    const int row = 16 * warp + g + 8 * (i >> 1 & 1), column = i / 4 * 8 + 2 * t + (i & 1);
    store(arguments.d + row * N + column, d[i]);
  }
}

// x [rows][columns] as it is, or transposed.
std::vector<float> laid_out(const std::vector<float>& x, int rows, int columns, bool transposed) {
  if (!transposed) return x;
  std::vector<float> result(x.size());
  for (int i = 0; i < rows; ++i) {
    for (int j = 0; j < columns; ++j) result[j * rows + i] = x[i * columns + j];
  }
  return result;
}

template <int N, Major major_a, Major major_b, bool a_in_registers = false>
void check_product() {
  SCOPED_TRACE("N " + std::to_string(N) + (major_a == Major::mn ? " A mn" : " A k") +
               (major_b == Major::mn ? " B mn" : " B k") + (a_in_registers ? " registers" : ""));
  const auto a = small_integers(64 * 64, 1), b = small_integers(N * 64, 2),
             c = small_integers(64 * N, 3);
  const OnDevice<BFloat16> a_device(to_bf16(laid_out(a, 64, 64, major_a == Major::mn)));
  const OnDevice<BFloat16> b_device(to_bf16(laid_out(b, N, 64, major_b == Major::mn)));
  const OnDevice<float> c_device(c), d(64 * N);
  const int b_columns = major_b == Major::k ? 64 : N, b_rows = major_b == Major::k ? N : 64;
  Arguments arguments{
      make_tensor_map({.base = a_device.data(), .size = {64, 64}, .stride = {64}, .box = {64, 64}}),
      make_tensor_map({.base = b_device.data(),
                       .size = {b_columns, b_rows},
                       .stride = {b_columns},
                       .box = {64, 64}}),
      c_device.data(), d.data()};
  launch({}, "product", product_kernel<N, major_a, major_b, a_in_registers>,
         {.grid = {1}, .block = {kWarpgroup}, .shared_bytes = (64 + N) * 128 + 8}, arguments,
         static_cast<const BFloat16*>(a_device.data()));
  const auto values = d.values();
  for (int i = 0; i < 64; ++i) {
    for (int j = 0; j < N; ++j) {
      float expected = c[i * N + j];
      for (int k = 0; k < 64; ++k) expected += a[i * 64 + k] * b[j * 64 + k];
      ASSERT_EQ(values[i * N + j], expected) << i << " " << j;
    }
  }
}

TEST(Wgmma, EveryLayoutAndWidth) {
  under_all_schedules([] {
    check_product<64, Major::k, Major::k>();
    check_product<64, Major::k, Major::mn>();
    check_product<64, Major::mn, Major::k>();
    check_product<64, Major::mn, Major::mn>();
    check_product<128, Major::k, Major::k>();
    check_product<128, Major::mn, Major::mn>();
    check_product<192, Major::k, Major::mn>();
    check_product<192, Major::mn, Major::k>();
    check_product<256, Major::k, Major::k>();
    check_product<256, Major::mn, Major::mn>();
    check_product<64, Major::k, Major::k, true>();
    check_product<128, Major::k, Major::mn, true>();
    check_product<192, Major::k, Major::k, true>();
    check_product<256, Major::k, Major::mn, true>();
  });
}

// Two groups in flight into different accumulators; wait<1> gives back the first.
void two_groups_kernel(const TensorMap map, float* first, float* second) {
  SharedMemory shared;
  const auto tile = shared.take<BFloat16>(64 * 64, 1024);
  const MbarrierAddress barrier = shared.take<uint64_t>(1, 8);
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(barrier, 8192);
    tensor_load(tile, map, barrier, Coordinate2{0, 0});
  }
  sync_threads();
  mbarrier_wait(barrier, 0);
  float d[32], e[32];
  const MatrixTile<Major::k> x(tile);
  warpgroup_fence();
  wgmma<64>(d, x, x, false);
  warpgroup_commit();
  wgmma<64>(e, x.at_k(16), x.at_k(16), false);
  warpgroup_commit();
  warpgroup_wait<1>();
  for (int i = 0; i < 32; ++i) store(first + static_cast<int>(threadIdx.x) * 32 + i, d[i]);
  warpgroup_wait<0>();
  for (int i = 0; i < 32; ++i) store(second + static_cast<int>(threadIdx.x) * 32 + i, e[i]);
}

TEST(Wgmma, GroupsFinishInOrder) {
  const auto x = small_integers(64 * 64, 5);
  under_all_schedules([&] {
    const OnDevice<BFloat16> device(to_bf16(x));
    const OnDevice<float> first(64 * 64), second(64 * 64);
    launch(
        {}, "two_groups", two_groups_kernel,
        {.grid = {1}, .block = {kWarpgroup}, .shared_bytes = 8192 + 8},
        make_tensor_map({.base = device.data(), .size = {64, 64}, .stride = {64}, .box = {64, 64}}),
        first.data(), second.data());
    for (const int which : {0, 1}) {
      const auto values = which == 0 ? first.values() : second.values();
      for (int thread = 0; thread < 128; ++thread) {
        for (int i = 0; i < 32; ++i) {
          const int row = thread / 32 * 16 + thread % 32 / 4 + 8 * (i >> 1 & 1);
          const int column = i / 4 * 8 + 2 * (thread % 4) + (i & 1);
          float expected = 0;
          for (int k = 16 * which; k < 16 * which + 16; ++k) {
            expected += x[row * 64 + k] * x[column * 64 + k];
          }
          ASSERT_EQ(values[thread * 32 + i], expected) << which << " " << row << " " << column;
        }
      }
    }
  });
}

}  // namespace
}  // namespace engine::kernels::simt::testing
