// mbarriers, TMA and bulk copies on the software GPU.
#include <numeric>

#include "kernels/cuda/device/cluster.h"
#include "kernels/cuda/device/tma.h"
#include "kernels/cuda/device/warp.h"
#include "tests/kernels/simt/support.h"

namespace engine::kernels::simt::testing {
namespace {

std::vector<float> counted(size_t count, float first = 1.0f) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), first);
  return values;
}

// --- mbarriers ---------------------------------------------------------------------------------

// Warp 0 hands numbers over to warp 1 through a ring of two slots; every phase several times.
void ring_kernel(float* out, int rounds) {
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

TEST(Mbarrier, HandsOverInARing) {
  constexpr int kRounds = 7;
  under_all_schedules([&] {
    OnDevice<float> out(kRounds * kWarp);
    launch({}, "ring", ring_kernel,
           {.grid = {1}, .block = {64}, .shared_bytes = 2 * kWarp * 4 + 4 * 8}, out.data(),
           kRounds);
    const auto values = out.values();
    for (int i = 0; i < kRounds; ++i) {
      for (int lane = 0; lane < kWarp; ++lane) {
        ASSERT_EQ(values[i * kWarp + lane], 100 * i + kWarp - 1 - lane);
      }
    }
  });
}

// Block 1 of a cluster arrives at block 0's barrier and leaves a number in its memory.
void remote_kernel(float* out) {
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
    store(out + static_cast<int>(blockIdx.x) * kWarp + lane_index(),
          load(number) + static_cast<float>(cluster_size()));
  }
  sync_cluster();
}

TEST(Mbarrier, RemoteArrival) {
  under_all_schedules([] {
    OnDevice<float> out(4 * kWarp);
    launch({}, "remote", remote_kernel,
           {.grid = {4}, .block = {32}, .cluster = 2, .shared_bytes = 32}, out.data());
    const auto values = out.values();
    for (int lane = 0; lane < kWarp; ++lane) {
      EXPECT_EQ(values[lane], 44.0f);
      EXPECT_EQ(values[2 * kWarp + lane], 44.0f);
    }
  });
}

// --- TMA loads ---------------------------------------------------------------------------------

struct LoadArguments {
  TensorMap map;
  Coordinate3 from;
  int elements;  // of the box
  bool three_dimensions;
  float* out;
};

// Copies the box to `out` as it lies in shared memory.
void load_kernel(const LoadArguments arguments) {
  SharedMemory shared;
  const auto tile = shared.take<float>(arguments.elements, 1024);
  const MbarrierAddress barrier = shared.take<uint64_t>(1, 8);
  if (threadIdx.x == 0) {
    prefetch_tensor_map(arguments.map);
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(barrier, arguments.elements * 4);
    if (arguments.three_dimensions) {
      tensor_load(tile, arguments.map, barrier, arguments.from);
    } else {
      tensor_load(tile, arguments.map, barrier, Coordinate2{arguments.from.x, arguments.from.y});
    }
  }
  sync_threads();
  mbarrier_wait(barrier, 0);
  for (int i = static_cast<int>(threadIdx.x); i < arguments.elements; i += kWarp) {
    store(arguments.out + i, load(tile + i));
  }
}

std::vector<float> loaded(const LoadArguments& arguments) {
  OnDevice<float> out(arguments.elements);
  LoadArguments with_out = arguments;
  with_out.out = out.data();
  launch({}, "load", load_kernel,
         {.grid = {1},
          .block = {kWarp},
          .shared_bytes = static_cast<size_t>(arguments.elements) * 4 + 8},
         with_out);
  return out.values();
}

TEST(Tma, LoadsABoxInsideAndOverEveryEdge) {
  constexpr int kRows = 12, kColumns = 20, kStride = 24;
  const auto host = counted(kRows * kStride);
  under_all_schedules([&] {
    OnDevice<float> x(host);
    const TensorMap map = make_tensor_map({.base = x.data(),
                                           .dtype = DType::f32,
                                           .size = {kColumns, kRows},
                                           .stride = {kStride},
                                           .box = {8, 4},
                                           .swizzle = false});
    for (const Coordinate3 from :
         {Coordinate3{4, 3, 0}, {-3, -2, 0}, {16, 10, 0}, {17, 0, 0}, {100, 100, 0}}) {
      const auto box = loaded({map, from, 32, false, nullptr});
      for (int y = 0; y < 4; ++y) {
        for (int x_ = 0; x_ < 8; ++x_) {
          const int row = from.y + y, column = from.x + x_;
          const bool inside = row >= 0 && row < kRows && column >= 0 && column < kColumns;
          ASSERT_EQ(box[y * 8 + x_], inside ? host[row * kStride + column] : 0.0f)
              << row << " " << column;
        }
      }
    }
  });
}

TEST(Tma, SwizzleOf128Bytes) {
  constexpr int kRows = 19, kColumns = 64;
  const auto host = counted(kRows * kColumns);
  under_all_schedules([&] {
    OnDevice<float> x(host);
    const TensorMap map = make_tensor_map({.base = x.data(),
                                           .dtype = DType::f32,
                                           .size = {kColumns, kRows},
                                           .stride = {kColumns},
                                           .box = {32, 16}});
    const auto box = loaded({map, {32, 2, 0}, 32 * 16, false, nullptr});
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 32; ++column) {
        // 16-byte chunk c of row r is at chunk c ^ (r % 8)
        const int chunk = column / 4 ^ row % 8;
        ASSERT_EQ(box[row * 32 + chunk * 4 + column % 4], host[(row + 2) * kColumns + column + 32]);
        ASSERT_EQ(swizzled_offset(static_cast<uint32_t>(row * 128 + column * 4)),
                  static_cast<uint32_t>(row * 128 + chunk * 16 + column % 4 * 4));
      }
    }
  });
}

TEST(Tma, ThreeDimensions) {
  constexpr int kX = 8, kY = 5, kZ = 3;
  const auto host = counted(kX * kY * kZ);
  under_all_schedules([&] {
    OnDevice<float> x(host);
    const TensorMap map = make_tensor_map({.base = x.data(),
                                           .dtype = DType::f32,
                                           .size = {kX, kY, kZ},
                                           .stride = {kX, kX * kY},
                                           .box = {4, 4, 2},
                                           .swizzle = false});
    const auto box = loaded({map, {4, 3, 1}, 32, true, nullptr});
    for (int z = 0; z < 2; ++z) {
      for (int y = 0; y < 4; ++y) {
        for (int e = 0; e < 4; ++e) {
          const float expected = 3 + y < kY ? host[((1 + z) * kY + 3 + y) * kX + 4 + e] : 0.0f;
          ASSERT_EQ(box[(z * 4 + y) * 4 + e], expected);
        }
      }
    }
  });
}

// Each block of a cluster of two loads half a tile and sends it to both.
void multicast_kernel(const TensorMap map, float* out) {
  SharedMemory shared;
  const auto tile = shared.take<float>(64, 1024);
  const MbarrierAddress barrier = shared.take<uint64_t>(1, 8);
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
  }
  sync_cluster();
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect(barrier, 256);
    const int rank = cluster_rank();
    tensor_load_multicast(tile + 32 * rank, map, barrier, Coordinate2{0, 4 * rank}, 3);
  }
  mbarrier_wait(barrier, 0);
  for (int i = 0; i < 2; ++i) {
    const int at = 32 * i + lane_index();
    store(out + static_cast<int>(blockIdx.x) * 64 + at, load(tile + at));
  }
  sync_cluster();
}

TEST(Tma, Multicast) {
  const auto host = counted(64);
  under_all_schedules([&] {
    OnDevice<float> x(host), out(128);
    const TensorMap map = make_tensor_map({.base = x.data(),
                                           .dtype = DType::f32,
                                           .size = {8, 8},
                                           .stride = {8},
                                           .box = {8, 4},
                                           .swizzle = false});
    launch({}, "multicast", multicast_kernel,
           {.grid = {2}, .block = {kWarp}, .cluster = 2, .shared_bytes = 264}, map, out.data());
    const auto values = out.values();
    for (int i = 0; i < 128; ++i) ASSERT_EQ(values[i], host[i % 64]) << i;
  });
}

// --- Stores ------------------------------------------------------------------------------------

struct StoreArguments {
  TensorMap map;
  Coordinate2 to;
  bool add;
};

void store_kernel(const StoreArguments arguments) {
  SharedMemory shared;
  const auto tile = shared.take<float>(32 * 8, 1024);
  for (int pass = 0; pass < 2; ++pass) {
    for (int row = 0; row < 8; ++row) {
      const auto offset = swizzled_offset(static_cast<uint32_t>(row * 128 + lane_index() * 4));
      store(tile + static_cast<int>(offset) / 4,
            static_cast<float>(1000 * pass + row * 32 + lane_index()));
    }
    fence_async_proxy();
    sync_warp();
    if (elect_lane()) {
      const Coordinate2 to{arguments.to.x, arguments.to.y + 8 * pass};
      if (arguments.add) {
        tensor_add(arguments.map, tile, to);
      } else {
        tensor_store(arguments.map, tile, to);
      }
      bulk_commit_group();
      bulk_wait_group_read<0>();  // the next pass writes the tile again
    }
    sync_warp();
  }
}

TEST(Tma, StoresAndAdds) {
  constexpr int kRows = 13, kColumns = 40;
  const auto host = counted(kRows * kColumns);
  under_all_schedules([&] {
    for (const bool add : {false, true}) {
      OnDevice<float> x(host);
      const TensorMap map = make_tensor_map({.base = x.data(),
                                             .dtype = DType::f32,
                                             .size = {kColumns, kRows},
                                             .stride = {kColumns},
                                             .box = {32, 8}});
      const Coordinate2 to{16, -2};
      launch({}, "store", store_kernel, {.grid = {1}, .block = {kWarp}, .shared_bytes = 1024},
             StoreArguments{map, to, add});
      const auto values = x.values();
      for (int row = 0; row < kRows; ++row) {
        for (int column = 0; column < kColumns; ++column) {
          const int r = row - to.y, c = column - to.x;
          const float before = host[row * kColumns + column];
          const bool inside = r >= 0 && r < 16 && c >= 0 && c < 32;
          const float written = static_cast<float>(1000 * (r / 8) + r % 8 * 32 + c);
          const float expected = inside ? written + (add ? before : 0.0f) : before;
          ASSERT_EQ(values[row * kColumns + column], expected) << row << " " << column;
        }
      }
    }
  });
}

// 1-D: loads 64 floats, adds them to one place, stores them at another and reads that back.
void bulk_kernel(const float* x, float* sums, float* copies, float* read_back) {
  SharedMemory shared;
  const auto tile = shared.take<float>(64);
  const MbarrierAddress barrier = shared.take<uint64_t>(1, 8);
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
    mbarrier_expect(barrier, 256);
    bulk_load(tile, x, 64, barrier);
    mbarrier_arrive(barrier);
  }
  sync_threads();
  mbarrier_wait(barrier, 0);
  if (threadIdx.x == 0) {
    bulk_add(sums, tile, 64);
    bulk_commit_group();
    bulk_store(copies, tile, 64);
    bulk_commit_group();
    bulk_wait_group<0>();
    for (int i = 0; i < 64; ++i) store(read_back + i, load(copies + i));
  }
}

TEST(Bulk, LoadsStoresAndAdds) {
  const auto host = counted(64);
  under_all_schedules([&] {
    OnDevice<float> x(host), sums(counted(64, 1000.0f)), copies(64), read_back(64);
    launch({}, "bulk", bulk_kernel, {.grid = {1}, .block = {kWarp}, .shared_bytes = 264},
           static_cast<const float*>(x.data()), sums.data(), copies.data(), read_back.data());
    for (int i = 0; i < 64; ++i) {
      ASSERT_EQ(sums.values()[i], 1001.0f + 2.0f * i);
      ASSERT_EQ(copies.values()[i], host[i]);
      ASSERT_EQ(read_back.values()[i], host[i]);
    }
  });
}

TEST(TensorMap, SaysWhatTmaCannotDo) {
  OnDevice<float> x(1024);
  const TensorMapConfig good{
      .base = x.data(), .dtype = DType::f32, .size = {32, 32}, .stride = {32}, .box = {32, 8}};
  EXPECT_TRUE(tensor_map_possible(good));
  EXPECT_NO_THROW(make_tensor_map(good));
  for (const auto& spoil : std::vector<std::function<void(TensorMapConfig&)>>{
           [&](TensorMapConfig& c) { c.base = x.data() + 1; },
           [](TensorMapConfig& c) { c.stride[0] = 33; }, [](TensorMapConfig& c) { c.size[1] = 0; },
           [](TensorMapConfig& c) { c.stride[0] = 0; }}) {
    TensorMapConfig bad = good;
    spoil(bad);
    EXPECT_FALSE(tensor_map_possible(bad));
    EXPECT_THROW(make_tensor_map(bad), std::logic_error);
  }
  TensorMapConfig wide = good;
  wide.box[1] = 257;
  EXPECT_THROW(make_tensor_map(wide), std::logic_error);
  wide.box[1] = 8;
  wide.box[0] = 16;  // swizzled boxes are 128 bytes wide
  EXPECT_THROW(make_tensor_map(wide), std::logic_error);
}

}  // namespace
}  // namespace engine::kernels::simt::testing
