// TMA: boxes, what lies outside a tensor, the swizzle, multicast, stores, sums, bulk copies.
#include "kernels/cuda/device/tma.h"

#include <cstring>

#include "kernels/cuda/device/cluster.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/warp.h"
#include "tests/kernels/hardware/arrays.h"
#include "tests/kernels/hardware/assumption.h"

namespace engine::kernels::ENGINE_GPU::hardware {
namespace {

using namespace testing;

// --- Loads -------------------------------------------------------------------------------------

struct LoadArguments {
  TensorMap map;
  Coordinate3 from;
  int words;  // of 4 bytes, of the box
  int skip;   // words of shared memory before it
  bool three_dimensions;
  uint32_t* out;
};

// Copies the box to `out` as it lies in shared memory.
__global__ void load_kernel(const __grid_constant__ LoadArguments arguments) {
  SharedMemory shared;
  const auto tile = shared.take<uint32_t>(arguments.skip + arguments.words, 1024) + arguments.skip;
  const MbarrierAddress barrier = shared.take<uint64_t>(1, 8);
  if (threadIdx.x == 0) {
    prefetch_tensor_map(arguments.map);
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
    mbarrier_arrive_expect(barrier, arguments.words * 4);  // what lies outside counts too
    if (arguments.three_dimensions) {
      tensor_load(tile, arguments.map, barrier, arguments.from);
    } else {
      tensor_load(tile, arguments.map, barrier, Coordinate2{arguments.from.x, arguments.from.y});
    }
  }
  sync_threads();
  mbarrier_wait(barrier, 0);
  for (int i = static_cast<int>(threadIdx.x); i < arguments.words; i += kWarp) {
    store(arguments.out + i, load(tile + i));
  }
}

template <typename T>
std::vector<float> loaded(const TensorMapConfig& config, Coordinate3 from, int skip = 0) {
  const int elements = config.box[0] * config.box[1] * (config.size[2] > 0 ? config.box[2] : 1);
  const int words = elements * static_cast<int>(sizeof(T)) / 4;
  const OnDevice<uint32_t> out(static_cast<size_t>(words));
  launch({}, "load", load_kernel,
         {.grid = {1}, .block = {kWarp}, .shared_bytes = static_cast<size_t>(skip + words) * 4 + 8},
         LoadArguments{make_tensor_map(config), from, words, skip, config.size[2] > 0, out.data()});
  const auto raw = out.values();
  std::vector<float> values;
  for (int i = 0; i < elements; ++i) {
    T value;
    std::memcpy(&value, reinterpret_cast<const char*>(raw.data()) + i * sizeof(T), sizeof value);
    values.push_back(static_cast<float>(value));
  }
  return values;
}

void box_over_edges(Report& report) {
  constexpr int kRows = 12, kColumns = 19, kStride = 24;
  const auto host = counted(kRows * kStride);
  const OnDevice<float> x(host);
  const OnDevice<BFloat16> half(to_bf16(host));
  // (16, 10): the edge goes through the last 16 bytes of a row
  for (const Coordinate3 from :
       {Coordinate3{4, 3, 0}, {-3, -2, 0}, {16, 10, 0}, {17, 0, 0}, {100, 100, 0}, {-8, 0, 0}}) {
    const auto expected = [&](size_t i) {
      const int row = from.y + static_cast<int>(i) / 8, column = from.x + static_cast<int>(i) % 8;
      const bool inside = row >= 0 && row < kRows && column >= 0 && column < kColumns;
      return inside ? host[row * kStride + column] : 0.0f;
    };
    TensorMapConfig config{.base = x.data(),
                           .dtype = DType::f32,
                           .size = {kColumns, kRows},
                           .stride = {kStride},
                           .box = {8, 4},
                           .swizzle = false};
    report.compare("fp32 box", loaded<float>(config, from), expected);
    config.base = half.data();
    config.dtype = DType::bf16;
    report.compare("bf16 box", loaded<BFloat16>(config, from),
                   [&](size_t i) { return static_cast<float>(BFloat16(expected(i))); });
  }
}

void three_dimensions(Report& report) {
  constexpr int kX = 8, kY = 5, kZ = 3;
  const auto host = counted(kX * kY * kZ);
  const OnDevice<float> x(host);
  const TensorMapConfig config{.base = x.data(),
                               .dtype = DType::f32,
                               .size = {kX, kY, kZ},
                               .stride = {kX, kX * kY},
                               .box = {4, 4, 2},
                               .swizzle = false};
  for (const Coordinate3 from : {Coordinate3{4, 3, 1}, {0, -1, 2}}) {
    report.compare("box", loaded<float>(config, from), [&](size_t i) {
      const int column = from.x + static_cast<int>(i) % 4,
                row = from.y + static_cast<int>(i) / 4 % 4,
                plane = from.z + static_cast<int>(i) / 16;
      const bool inside = row >= 0 && row < kY && plane < kZ;
      return inside ? host[(plane * kY + row) * kX + column] : 0.0f;
    });
  }
}

// One head of tokens as attention takes it: {head_dim, heads, tokens}, of which the outermost lies
// further apart than all heads, in swizzled boxes of one head for several tokens; zeros behind
// head_dim and behind the last token.
void heads(Report& report) {
  constexpr int kDim = 40, kHeads = 3, kTokens = 13, kStride = 5 * kDim, kRows = 8;
  const auto host = counted(kTokens * kStride);
  const OnDevice<BFloat16> x(to_bf16(host));
  const TensorMapConfig config{.base = x.data(),
                               .size = {kDim, kHeads, kTokens},
                               .stride = {kDim, kStride},
                               .box = {64, 1, kRows}};
  for (const Coordinate3 from : {Coordinate3{0, 0, 0}, {0, 2, 3}, {0, 1, 9}}) {
    report.compare("heads", loaded<BFloat16>(config, from), [&](size_t i) {
      const int row = static_cast<int>(i) / 64, chunk = static_cast<int>(i) % 64 / 8 ^ row % 8;
      const int d = 8 * chunk + static_cast<int>(i) % 8, token = from.z + row;
      if (d >= kDim || token >= kTokens) return 0.0f;
      return static_cast<float>(BFloat16(host[token * kStride + from.y * kDim + d]));
    });
  }
}

// 16-byte chunk c of row r is at chunk c ^ (r % 8), rows counted by the address.
void swizzle(Report& report) {
  constexpr int kRows = 19, kColumns = 64;
  const auto host = counted(kRows * kColumns);
  const OnDevice<float> x(host);
  const OnDevice<BFloat16> half(to_bf16(host));
  const auto expected = [&](int columns, int per_chunk, int rows_before) {
    return [=, &host](size_t i) {
      const int row = static_cast<int>(i) / columns, at = static_cast<int>(i) % columns;
      const int column = (at / per_chunk ^ (row + rows_before) % 8) * per_chunk + at % per_chunk;
      const int first = columns == 32 ? 32 : 0;
      return host[(row + 2) * kColumns + first + column];
    };
  };
  TensorMapConfig config{.base = x.data(),
                         .dtype = DType::f32,
                         .size = {kColumns, kRows},
                         .stride = {kColumns},
                         .box = {32, 16}};
  report.compare("fp32", loaded<float>(config, {32, 2, 0}), expected(32, 4, 0));
  report.compare("fp32, three rows on", loaded<float>(config, {32, 2, 0}, 96), expected(32, 4, 3));
  config.base = half.data();
  config.dtype = DType::bf16;
  config.box[0] = 64;
  const auto exact = expected(64, 8, 0);
  report.compare("bf16", loaded<BFloat16>(config, {0, 2, 0}),
                 [&](size_t i) { return static_cast<float>(BFloat16(exact(i))); });
}

// Each block of a cluster of two loads half a tile and sends it to both.
__global__ void multicast_kernel(const __grid_constant__ TensorMap map, float* out) {
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

// Block 0 sends to blocks 1 and 3 of four, not to itself.
__global__ void sent_away_kernel(const __grid_constant__ TensorMap map, float* out) {
  SharedMemory shared;
  const auto tile = shared.take<float>(32, 1024);
  const MbarrierAddress barrier = shared.take<uint64_t>(1, 8);
  const int rank = cluster_rank();
  store(tile + lane_index(), static_cast<float>(-rank));
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
    if (rank % 2 == 1) mbarrier_arrive_expect(barrier, 128);
  }
  fence_async_proxy();  // the old numbers lie where copies will write
  sync_cluster();
  if (threadIdx.x == 0 && rank == 0) {
    tensor_load_multicast(tile, map, barrier, Coordinate2{0, 0}, 0b1010);
  }
  if (rank % 2 == 1) mbarrier_wait(barrier, 0);
  store(out + rank * 32 + lane_index(), load(tile + lane_index()));
  sync_cluster();
}

void multicast(Report& report) {
  const auto host = counted(64);
  const OnDevice<float> x(host), out(128), away(128);
  const TensorMap map = make_tensor_map({.base = x.data(),
                                         .dtype = DType::f32,
                                         .size = {8, 8},
                                         .stride = {8},
                                         .box = {8, 4},
                                         .swizzle = false});
  launch({}, "multicast", multicast_kernel,
         {.grid = {2}, .block = {kWarp}, .cluster = 2, .shared_bytes = 264}, map, out.data());
  report.compare("of both", out.values(), [&](size_t i) { return host[i % 64]; });
  launch({}, "sent_away", sent_away_kernel,
         {.grid = {4}, .block = {kWarp}, .cluster = 4, .shared_bytes = 136}, map, away.data());
  report.compare("of others", away.values(), [&](size_t i) {
    const size_t rank = i / 32;
    return rank % 2 == 1 ? host[i % 32] : -static_cast<float>(rank);
  });
}

// --- Stores ------------------------------------------------------------------------------------

struct StoreArguments {
  TensorMap map;
  Coordinate2 to;
  bool add;
};

__global__ void store_kernel(const __grid_constant__ StoreArguments arguments) {
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

void stores(Report& report) {
  constexpr int kRows = 13, kColumns = 40;
  const auto host = counted(kRows * kColumns);
  for (const bool add : {false, true}) {
    const OnDevice<float> x(host);
    const Coordinate2 to{16, -2};
    launch({}, "store", store_kernel, {.grid = {1}, .block = {kWarp}, .shared_bytes = 1024},
           StoreArguments{make_tensor_map({.base = x.data(),
                                           .dtype = DType::f32,
                                           .size = {kColumns, kRows},
                                           .stride = {kColumns},
                                           .box = {32, 8}}),
                          to, add});
    report.compare(add ? "added" : "stored", x.values(), [&](size_t i) {
      const int row = static_cast<int>(i) / kColumns, column = static_cast<int>(i) % kColumns;
      const int r = row - to.y, c = column - to.x;
      const bool inside = r >= 0 && r < 16 && c >= 0 && c < 32;
      const auto written = static_cast<float>(1000 * (r / 8) + r % 8 * 32 + c);
      return inside ? written + (add ? host[i] : 0.0f) : host[i];
    });
  }
}

struct BulkArguments {
  const float* x;
  float *sums, *copies, *read_back;
};

// 1-D: loads 64 floats, adds them to one place, stores them at another and reads that back.
__global__ void bulk_kernel(const BulkArguments p) {
  SharedMemory shared;
  const auto tile = shared.take<float>(64);
  const MbarrierAddress barrier = shared.take<uint64_t>(1, 8);
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    fence_mbarrier_init();
    mbarrier_expect(barrier, 256);
    bulk_load(tile, p.x, 64, barrier);
    mbarrier_arrive(barrier);
  }
  sync_threads();
  mbarrier_wait(barrier, 0);
  if (threadIdx.x == 0) {
    bulk_add(p.sums, tile, 64);
    bulk_commit_group();
    bulk_store(p.copies, tile, 64);
    bulk_commit_group();
    bulk_wait_group<0>();
    for (int i = 0; i < 64; ++i) store(p.read_back + i, load(p.copies + i));
  }
}

void bulk_copies(Report& report) {
  const auto host = counted(64);
  const OnDevice<float> x(host), sums(counted(64, 1000.0f)), copies(64), read_back(64);
  launch({}, "bulk", bulk_kernel, {.grid = {1}, .block = {kWarp}, .shared_bytes = 264},
         BulkArguments{x.data(), sums.data(), copies.data(), read_back.data()});
  report.compare("sums", sums.values(),
                 [](size_t i) { return 1001.0f + 2.0f * static_cast<float>(i); });
  report.compare("copies", copies.values(), [&](size_t i) { return host[i]; });
  report.compare("read back", read_back.values(), [&](size_t i) { return host[i]; });
}

// Sums of the reduction are those of fp32: to nearest, ties to even, once.
void add_rounding(Report& report) {
  std::vector<float> x(64), start(64);
  for (size_t i = 0; i < 64; ++i) {
    start[i] = 1.0f + static_cast<float>(i % 4) * 0x1p-23f;
    x[i] = std::ldexp(1.0f + static_cast<float>(i % 3) * 0.5f, -24) * (i % 2 == 0 ? 1.0f : -0.5f);
  }
  const OnDevice<float> device(x), sums(start), copies(64), read_back(64);
  launch({}, "bulk", bulk_kernel, {.grid = {1}, .block = {kWarp}, .shared_bytes = 264},
         BulkArguments{device.data(), sums.data(), copies.data(), read_back.data()});
  report.compare("sums", sums.values(), [&](size_t i) { return start[i] + x[i]; });
}

}  // namespace

Assumptions tma_assumptions() {
  static const Assumption all[] = {
      {"tma_box", "a box is dense; outside the tensor are zeros, and they count as bytes", 90,
       box_over_edges},
      {"tma_3d", "boxes of three dimensions", 90, three_dimensions},
      {"tma_heads", "one head of {head_dim, heads, tokens}, swizzled, zeros behind head_dim", 90,
       heads},
      {"tma_swizzle", "128-byte swizzle: address bits 4-6 ^= bits 7-9, of absolute addresses", 90,
       swizzle},
      {"tma_multicast", "one load to the same place of several blocks, signalled at each", 90,
       multicast},
      {"tma_store", "stores and sums leave out what lies outside; .read frees the tile", 90,
       stores},
      {"bulk_copy", "cp.async.bulk: loads, stores, sums, and what a wait makes visible", 90,
       bulk_copies},
      {"reduce_add_rounding", "cp.reduce.add.f32 rounds as an fp32 addition", 90, add_rounding},
  };
  return all;
}

}  // namespace engine::kernels::ENGINE_GPU::hardware
