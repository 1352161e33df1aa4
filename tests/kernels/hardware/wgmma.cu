// wgmma: fragments, tiles, descriptors and groups.
#include "kernels/cuda/device/wgmma.h"

#include "kernels/cuda/device/cluster.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/math.h"
#include "kernels/cuda/device/warp.h"
#include "tests/kernels/hardware/arrays.h"
#include "tests/kernels/hardware/assumption.h"

namespace engine::kernels::ENGINE_GPU::hardware {
namespace {

using namespace testing;

// Where accumulator i of this thread lies in D [64, N].
ENGINE_DEVICE int row_of(int i) {
  return 16 * warp_index() + lane_index() / 4 + 8 * (i >> 1 & 1);
}
ENGINE_DEVICE int column_of(int i) {
  return i / 4 * 8 + 2 * (lane_index() % 4) + (i & 1);
}

// --- Layouts and widths ------------------------------------------------------------------------

struct Product {
  TensorMap a, b;
  const BFloat16* a_rows;  // [64][64], for A in registers
  const float* c;          // [64][N]: what D starts from
  float* d;
};

// D = C + A · B for one tile of 64 k with A in shared memory; D = A · B with A in registers.
template <int N, Major major_a, Major major_b, bool a_in_registers>
__global__ void __launch_bounds__(kWarpgroup) product_kernel(const __grid_constant__ Product p) {
  SharedMemory shared;
  const auto a = shared.take<BFloat16>(64 * 64, 1024);
  const auto b = shared.take<BFloat16>(N * 64, 1024);
  const MbarrierAddress barrier = shared.take<uint64_t>(1, 8);
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(barrier, (64 + N) * 128);
    tensor_load(a, p.a, barrier, Coordinate2{0, 0});
    for (int panel = 0; panel < N / 64; ++panel) {
      tensor_load(b + panel * 64 * 64, p.b, barrier,
                  major_b == Major::k ? Coordinate2{0, 64 * panel} : Coordinate2{64 * panel, 0});
    }
  }
  sync_threads();
  float d[N / 2];
  if constexpr (!a_in_registers) {
#pragma unroll
    for (int i = 0; i < N / 2; ++i) d[i] = load(p.c + row_of(i) * N + column_of(i));
  }
  mbarrier_wait(barrier, 0);
  const MatrixTile<major_a> tile_a(a);
  const MatrixTile<major_b> tile_b(b);
  if constexpr (a_in_registers) {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      uint32_t fragment[4];
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int row = 16 * warp_index() + lane_index() / 4 + 8 * (r & 1);
        const int k = 16 * step + 2 * (lane_index() % 4) + 8 * (r >> 1);
        fragment[r] = load(reinterpret_cast<const uint32_t*>(p.a_rows + row * 64 + k));
      }
      warpgroup_fence();
      wgmma<N>(d, fragment, tile_b.at_k(16 * step), step > 0);
      warpgroup_commit();
      warpgroup_wait<0>();
    }
  } else {
    warpgroup_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      wgmma<N>(d, tile_a.at_k(16 * step), tile_b.at_k(16 * step), true);
    }
    warpgroup_commit();
    warpgroup_wait<0>();
  }
#pragma unroll
  for (int i = 0; i < N / 2; ++i) store(p.d + row_of(i) * N + column_of(i), d[i]);
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

TensorMap tile_map(const BFloat16* data, int columns, int rows) {
  return make_tensor_map(
      {.base = data, .size = {columns, rows}, .stride = {columns}, .box = {64, 64}});
}

template <int N, Major major_a, Major major_b, bool a_in_registers = false>
void check_product(Report& report) {
  const auto a = small_integers(64 * 64, 1), b = small_integers(N * 64, 2),
             c = small_integers(64 * N, 3);
  const OnDevice<BFloat16> a_device(to_bf16(laid_out(a, 64, 64, major_a == Major::mn)));
  const OnDevice<BFloat16> b_device(to_bf16(laid_out(b, N, 64, major_b == Major::mn)));
  const OnDevice<float> c_device(c), d(64 * N);
  launch({}, "product", product_kernel<N, major_a, major_b, a_in_registers>,
         {.grid = {1}, .block = {kWarpgroup}, .shared_bytes = (64 + N) * 128 + 8},
         Product{tile_map(a_device.data(), 64, 64),
                 major_b == Major::k ? tile_map(b_device.data(), 64, N)
                                     : tile_map(b_device.data(), N, 64),
                 a_device.data(), c_device.data(), d.data()});
  const std::string what = "n " + std::to_string(N) + (major_a == Major::mn ? ", A mn" : ", A k") +
                           (major_b == Major::mn ? ", B mn" : ", B k");
  report.compare(what.c_str(), d.values(), [&](size_t at) {
    const size_t i = at / N, j = at % N;
    float expected = a_in_registers ? 0.0f : c[at];
    for (size_t k = 0; k < 64; ++k) expected += a[i * 64 + k] * b[j * 64 + k];
    return expected;
  });
}

void shared_operands(Report& report) {
  check_product<64, Major::k, Major::k>(report);
  check_product<64, Major::k, Major::mn>(report);
  check_product<64, Major::mn, Major::k>(report);
  check_product<64, Major::mn, Major::mn>(report);
  check_product<128, Major::k, Major::k>(report);
  check_product<128, Major::mn, Major::mn>(report);
  check_product<192, Major::k, Major::mn>(report);
  check_product<192, Major::mn, Major::k>(report);
  check_product<256, Major::k, Major::k>(report);
  check_product<256, Major::mn, Major::mn>(report);
}

void register_operands(Report& report) {
  check_product<64, Major::k, Major::k, true>(report);
  check_product<128, Major::k, Major::mn, true>(report);
  check_product<192, Major::k, Major::k, true>(report);
  check_product<256, Major::k, Major::mn, true>(report);
}

// --- 128 keys ----------------------------------------------------------------------------------

struct Deep {
  TensorMap a, b, e;
  float *scores, *out;
};

// What attention does with 128 keys: a K-major B of 128 rows in one box, and an MN-major B of 128 k
// in panels of 16 KiB. scores = A Bᵀ with A [64, 64], B [128, 64]; out = P E with P [64, 128] the
// scores' registers, E [128, 128].
__global__ void __launch_bounds__(kWarpgroup) deep_kernel(const __grid_constant__ Deep p) {
  SharedMemory shared;
  const auto a = shared.take<BFloat16>(64 * 64, 1024), b = shared.take<BFloat16>(128 * 64, 1024),
             e = shared.take<BFloat16>(128 * 128, 1024);
  const MbarrierAddress barrier = shared.take<uint64_t>(1, 8);
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(barrier, 8192 + 16384 + 32768);
    tensor_load(a, p.a, barrier, Coordinate2{0, 0});
    tensor_load(b, p.b, barrier, Coordinate2{0, 0});
    tensor_load(e, p.e, barrier, Coordinate2{0, 0});
    tensor_load(e + 128 * 64, p.e, barrier, Coordinate2{64, 0});
  }
  sync_threads();
  mbarrier_wait(barrier, 0);
  float scores[64], sums[64];
  const MatrixTile<Major::k> tile_a(a), tile_b(b);
  const MatrixTile<Major::mn> tile_e(e, 16384);
  warpgroup_fence();
#pragma unroll
  for (int k = 0; k < 64; k += 16) wgmma<128>(scores, tile_a.at_k(k), tile_b.at_k(k), k > 0);
  warpgroup_commit();
  warpgroup_wait<0>();
  uint32_t packed[8][4];
#pragma unroll
  for (int k = 0; k < 8; ++k) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      packed[k][r] = pack_bf16(scores[8 * k + 2 * r], scores[8 * k + 2 * r + 1]);
    }
  }
  warpgroup_fence();
#pragma unroll
  for (int k = 0; k < 8; ++k) wgmma<128>(sums, packed[k], tile_e.at_k(16 * k), k > 0);
  warpgroup_commit();
  warpgroup_wait<0>();
#pragma unroll
  for (int i = 0; i < 64; ++i) {
    store(p.scores + row_of(i) * 128 + column_of(i), scores[i]);
    store(p.out + row_of(i) * 128 + column_of(i), sums[i]);
  }
}

void deep(Report& report) {
  // sums of at most 64 products of 0 and 1 are exact in bf16
  std::vector<float> a = small_integers(64 * 64, 7), b = small_integers(128 * 64, 8);
  for (float& x : a) x = x > 0;
  for (float& x : b) x = x > 0;
  const auto e = small_integers(128 * 128, 10);
  const OnDevice<BFloat16> a_device(to_bf16(a)), b_device(to_bf16(b)), e_device(to_bf16(e));
  const OnDevice<float> scores(64 * 128), out(64 * 128);
  const auto map = [](const OnDevice<BFloat16>& x, int columns, int rows) {
    return make_tensor_map(
        {.base = x.data(), .size = {columns, rows}, .stride = {columns}, .box = {64, rows}});
  };
  launch({}, "deep", deep_kernel,
         {.grid = {1}, .block = {kWarpgroup}, .shared_bytes = 8192 + 16384 + 32768 + 8},
         Deep{map(a_device, 64, 64), map(b_device, 64, 128), map(e_device, 128, 128), scores.data(),
              out.data()});
  std::vector<double> inner(64 * 128);
  for (size_t i = 0; i < 64; ++i) {
    for (size_t j = 0; j < 128; ++j) {
      for (size_t k = 0; k < 64; ++k) inner[i * 128 + j] += a[i * 64 + k] * b[j * 64 + k];
    }
  }
  report.compare("scores", scores.values(), [&](size_t at) { return inner[at]; });
  report.compare("scores E", out.values(), [&](size_t at) {
    double sum = 0;
    for (size_t k = 0; k < 128; ++k) sum += inner[at / 128 * 128 + k] * e[k * 128 + at % 128];
    return sum;
  });
}

// --- Accumulators as operands --------------------------------------------------------------------

struct Chain {
  TensorMap a, b, e;
  float* out;
};

// (A Bᵀ) E with A, B, E [64, 64]: P of attention stays in registers.
__global__ void __launch_bounds__(kWarpgroup) chain_kernel(const __grid_constant__ Chain p) {
  SharedMemory shared;
  const auto a = shared.take<BFloat16>(64 * 64, 1024), b = shared.take<BFloat16>(64 * 64, 1024),
             e = shared.take<BFloat16>(64 * 64, 1024);
  const MbarrierAddress barrier = shared.take<uint64_t>(1, 8);
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(barrier, 3 * 8192);
    tensor_load(a, p.a, barrier, Coordinate2{0, 0});
    tensor_load(b, p.b, barrier, Coordinate2{0, 0});
    tensor_load(e, p.e, barrier, Coordinate2{0, 0});
  }
  sync_threads();
  mbarrier_wait(barrier, 0);
  float scores[32], sums[32];
  const MatrixTile<Major::k> tile_a(a), tile_b(b);
  const MatrixTile<Major::mn> tile_e(e);
  warpgroup_fence();
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    wgmma<64>(scores, tile_a.at_k(16 * step), tile_b.at_k(16 * step), step > 0);
  }
  warpgroup_commit();
  warpgroup_wait<0>();
  uint32_t packed[4][4];
#pragma unroll
  for (int k = 0; k < 4; ++k) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      packed[k][r] = pack_bf16(scores[8 * k + 2 * r], scores[8 * k + 2 * r + 1]);
    }
  }
  warpgroup_fence();
#pragma unroll
  for (int k = 0; k < 4; ++k) wgmma<64>(sums, packed[k], tile_e.at_k(16 * k), k > 0);
  warpgroup_commit();
  warpgroup_wait<0>();
#pragma unroll
  for (int i = 0; i < 32; ++i) store(p.out + row_of(i) * 64 + column_of(i), sums[i]);
}

void chain(Report& report) {
  // sums of at most 64 products of 0 and 1 are exact in bf16
  std::vector<float> a = small_integers(4096, 4), b = small_integers(4096, 5);
  for (float& x : a) x = x > 0;
  for (float& x : b) x = x > 0;
  const auto e = small_integers(4096, 6);  // [k][n]: MN-major
  const OnDevice<BFloat16> a_device(to_bf16(a)), b_device(to_bf16(b)), e_device(to_bf16(e));
  const OnDevice<float> out(4096);
  launch({}, "chain", chain_kernel,
         {.grid = {1}, .block = {kWarpgroup}, .shared_bytes = 3 * 8192 + 8},
         Chain{tile_map(a_device.data(), 64, 64), tile_map(b_device.data(), 64, 64),
               tile_map(e_device.data(), 64, 64), out.data()});
  std::vector<double> inner(4096);
  for (size_t i = 0; i < 64; ++i) {
    for (size_t j = 0; j < 64; ++j) {
      for (size_t k = 0; k < 64; ++k) inner[i * 64 + j] += a[i * 64 + k] * b[j * 64 + k];
    }
  }
  report.compare("(A Bt) E", out.values(), [&](size_t at) {
    double sum = 0;
    for (size_t k = 0; k < 64; ++k) sum += inner[at / 64 * 64 + k] * e[k * 64 + at % 64];
    return sum;
  });
}

// --- Groups --------------------------------------------------------------------------------------

struct TwoGroups {
  TensorMap x;
  float *first, *second;
};

// Two groups in flight into different accumulators; wait<1> gives back the first. Neither adds to
// what its registers held.
__global__ void __launch_bounds__(kWarpgroup)
    two_groups_kernel(const __grid_constant__ TwoGroups p) {
  SharedMemory shared;
  const auto tile = shared.take<BFloat16>(64 * 64, 1024);
  const MbarrierAddress barrier = shared.take<uint64_t>(1, 8);
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(barrier, 8192);
    tensor_load(tile, p.x, barrier, Coordinate2{0, 0});
  }
  sync_threads();
  mbarrier_wait(barrier, 0);
  float d[32], e[32];
#pragma unroll
  for (int i = 0; i < 32; ++i) d[i] = e[i] = infinity();
  const MatrixTile<Major::k> x(tile);
  warpgroup_fence();
  wgmma<64>(d, x, x, false);
  warpgroup_commit();
  wgmma<64>(e, x.at_k(16), x.at_k(16), false);
  warpgroup_commit();
  warpgroup_wait<1>();
#pragma unroll
  for (int i = 0; i < 32; ++i) store(p.first + row_of(i) * 64 + column_of(i), d[i]);
  warpgroup_wait<0>();
#pragma unroll
  for (int i = 0; i < 32; ++i) store(p.second + row_of(i) * 64 + column_of(i), e[i]);
}

void groups(Report& report) {
  const auto x = small_integers(64 * 64, 5);
  const OnDevice<BFloat16> device(to_bf16(x));
  const OnDevice<float> first(64 * 64), second(64 * 64);
  launch({}, "two_groups", two_groups_kernel,
         {.grid = {1}, .block = {kWarpgroup}, .shared_bytes = 8192 + 8},
         TwoGroups{tile_map(device.data(), 64, 64), first.data(), second.data()});
  const auto expected = [&](size_t from) {
    return [&x, from](size_t at) {
      float sum = 0;
      for (size_t k = from; k < from + 16; ++k) sum += x[at / 64 * 64 + k] * x[at % 64 * 64 + k];
      return sum;
    };
  };
  report.compare("the first group", first.values(), expected(0));
  report.compare("the second", second.values(), expected(16));
}

// Tiles that threads wrote, swizzled by hand, visible after fence.proxy.async.
__global__ void __launch_bounds__(kWarpgroup) written_tiles_kernel(const BFloat16* x, float* out) {
  SharedMemory shared;
  const auto tile = shared.take<BFloat16>(64 * 64, 1024);
  for (int i = static_cast<int>(threadIdx.x); i < 512; i += kWarpgroup) {
    const auto offset = swizzled_offset(static_cast<uint32_t>(i * 16));
    store_vector(tile + static_cast<int>(offset) / 2, load_vector<8>(x + i * 8));
  }
  fence_async_proxy();
  sync_threads();
  float d[32];
  const MatrixTile<Major::k> rows(tile);
  warpgroup_fence();
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    wgmma<64>(d, rows.at_k(16 * step), rows.at_k(16 * step), step > 0);
  }
  warpgroup_commit();
  warpgroup_wait<0>();
#pragma unroll
  for (int i = 0; i < 32; ++i) store(out + row_of(i) * 64 + column_of(i), d[i]);
}

void written_tiles(Report& report) {
  const auto x = small_integers(64 * 64, 9);
  const OnDevice<BFloat16> device(to_bf16(x));
  const OnDevice<float> out(64 * 64);
  launch({}, "written_tiles", written_tiles_kernel,
         {.grid = {1}, .block = {kWarpgroup}, .shared_bytes = 8192},
         static_cast<const BFloat16*>(device.data()), out.data());
  report.compare("x xt", out.values(), [&](size_t at) {
    float sum = 0;
    for (size_t k = 0; k < 64; ++k) sum += x[at / 64 * 64 + k] * x[at % 64 * 64 + k];
    return sum;
  });
}

}  // namespace

Assumptions wgmma_assumptions() {
  static const Assumption all[] = {
      {"wgmma_shared", "A and B in shared memory, both majors, n 64 to 256; descriptors", 90,
       shared_operands},
      {"wgmma_registers", "A in registers: fragments", 90, register_operands},
      {"wgmma_deep", "K-major tiles of 128 rows; MN-major panels of 128 k, 16 KiB apart", 90, deep},
      {"wgmma_chain", "accumulators packed to bf16 are the A registers of the next product", 90,
       chain},
      {"wgmma_groups", "wait_group<1> gives back the older group; scale-d 0 starts from nothing",
       90, groups},
      {"wgmma_written", "tiles written by threads, after fence.proxy.async", 90, written_tiles},
  };
  return all;
}

}  // namespace engine::kernels::ENGINE_GPU::hardware
