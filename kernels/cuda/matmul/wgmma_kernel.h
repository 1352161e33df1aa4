// bf16 matrix products on Hopper: wgmma fed by TMA.
//
// Each block computes 128 x 256 (or 128 x 128) tiles of D, one after the other:
//
//   warpgroup 0   one thread loads: 64 k of A and of B at a time into a ring of 4 (6) slots
//   warpgroups 1, 2   multiply: 64 rows of the tile each, sums in 128 (64) registers per thread
//
// A slot is `full` when TMA has filled it and `empty` when all warps that read it say so; nothing
// else synchronises the roles, so loads run ahead by the whole ring, over the end of a tile too.
// One wgmma group stays in flight while the next is issued.
//
// Two blocks that are neighbours in m can form a cluster: they need the same columns of B, so each
// loads half of them and sends that to both. This is what makes the L2 keep up: a step of 64 k
// takes 1024 cycles of the tensor cores for 128 x 256 and 48 KiB from L2 (46 bytes per cycle, about
// what it delivers), in a cluster 32 KiB.
//
// Operands are read as they are stored (device/wgmma.h): K-major if k is contiguous, else MN-major;
// either way 64 rows or columns by 64 k are one box of TMA, 8 KiB. Outside the matrices TMA fills
// in zeros, and leaves out what would be stored there.
//
// Epilogues: wgmma_epilogue.h. Both warpgroups finish a tile at one time, and nobody multiplies
// then; loads of the next tile go on. Two ways to let one multiply while the other stores were
// weighed and left for a measurement: tiles of their own for the warpgroups (128 x 128, 47 bytes
// per cycle from L2 instead of 31 in clusters, which leaves nothing for the stores), or one
// warpgroup a slot behind the other (the same bytes; but it holds one more of the four slots, and
// the one that is left ahead covers 1024 cycles, about what a load takes).
//
// Floors at 990 TFLOP/s and 4.8 TB/s: 2 m n k / 990e12 s, or bytes of A, B and D; not measured.
#pragma once

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device/cluster.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/wgmma.h"
#include "kernels/cuda/matmul/wgmma_epilogue.h"

namespace engine::kernels::ENGINE_GPU::wgmma_matmul {

inline constexpr int kRows = 128;     // of a tile of D
inline constexpr int kDepth = 64;     // of k in a slot
inline constexpr int kBox = 64 * 64;  // elements of one TMA load
inline constexpr int kConsumerWarps = 8;
inline constexpr int kThreads = 3 * kWarpgroup;
inline constexpr int kConsumerBarrier = 1;
template <int Columns>
inline constexpr int kSlots = Columns == 256 ? 4 : 6;

template <int Columns>
struct Ring {
  Shared<BFloat16> tiles;
  MbarrierAddress full, empty;

  ENGINE_DEVICE Shared<BFloat16> a(int slot) const {
    return tiles + slot * (kRows + Columns) * kDepth;
  }
  ENGINE_DEVICE Shared<BFloat16> b(int slot) const { return a(slot) + kRows * kDepth; }
};

// Which tiles the block computes: those of its cluster, whose blocks lie below one another.
template <int Columns>
struct Tiles {
  MatmulSizes sizes;
  int rank, cluster, rows, columns, parts;

  ENGINE_DEVICE explicit Tiles(const MatmulProblem& problem)
      : sizes(sizes_within(problem)),
        rank(cluster_rank()),
        cluster(cluster_size()),
        rows(ceil_div(sizes.m, kRows * cluster)),
        columns(ceil_div(problem.n, Columns)),
        parts(problem.parts) {
    if (sizes.k == 0 && problem.accumulate && !problem.bias) rows = 0;  // D stays as it is
  }
  ENGINE_DEVICE int first() const { return static_cast<int>(blockIdx.x) / cluster; }
  ENGINE_DEVICE int step() const { return static_cast<int>(gridDim.x) / cluster; }
  ENGINE_DEVICE int count() const { return parts * rows * columns; }
  // First row and column of D, and which k.
  ENGINE_DEVICE BlockWork at(const MatmulProblem& problem, int tile) const {
    BlockWork work = block_work(problem, sizes, tile, rows, columns);
    const int across = problem.finish.pairs() ? Columns / 2 : Columns;
    work.tile = {(work.tile.row * cluster + rank) * kRows, work.tile.column * across};
    return work;
  }
  // Of 64 k; one also where there is no k: of zeros.
  ENGINE_DEVICE static int steps(const DepthRange& depths) {
    return depths.k > 0 ? ceil_div(depths.k, kDepth) : 1;
  }
};

// One thread: fills the ring.
template <int Columns, Major major_a, Major major_b>
ENGINE_DEVICE void load_tiles(const Arguments& arguments, const Ring<Columns>& ring,
                              const Tiles<Columns>& tiles) {
  const auto everyone = static_cast<uint16_t>((1 << tiles.cluster) - 1);
  const int boxes = Columns / 64 / tiles.cluster;  // of B that this block loads
  RingPosition<kSlots<Columns>> at;
  for (int tile = tiles.first(); tile < tiles.count(); tile += tiles.step()) {
    const auto [position, depths] = tiles.at(arguments.problem, tile);
    const int steps = tiles.steps(depths);
    for (int step = 0; step < steps; ++step, at.advance()) {
      const int k = depths.first + step * kDepth;
      const MbarrierAddress full = ring.full + at.slot;
      mbarrier_wait(ring.empty + at.slot, at.parity ^ 1);
      mbarrier_arrive_expect(full, (kRows + Columns) * kDepth * 2);
      for (int box = 0; box < kRows / 64; ++box) {
        const int row = position.row + 64 * box;
        tensor_load(ring.a(at.slot) + box * kBox, arguments.a, full,
                    major_a == Major::k ? Coordinate2{k, row} : Coordinate2{row, k});
      }
      for (int i = 0; i < boxes; ++i) {
        const int box = tiles.rank * boxes + i;
        const int column = group_column(arguments.problem, position.column, box);
        const Coordinate2 from =
            major_b == Major::k ? Coordinate2{k, column} : Coordinate2{column, k};
        if (tiles.cluster == 1) {
          tensor_load(ring.b(at.slot) + box * kBox, arguments.b, full, from);
        } else {
          tensor_load_multicast(ring.b(at.slot) + box * kBox, arguments.b, full, from, everyone);
        }
      }
    }
  }
}

// The two multiplying warpgroups together: zeros in a tile of `extent` rows (or columns) from k =
// `valid` on, where the matrix goes on but the extent of k that the device gave ends.
template <Major major>
ENGINE_DEVICE void clear_beyond(Shared<BFloat16> tile, int extent, int valid, int thread) {
  for (int i = thread; i < extent * kDepth / 8; i += 2 * kWarpgroup) {
    const int row = i / 8;
    const int k = major == Major::k ? 8 * (i % 8 ^ row % 8) : row % kDepth;
    const int keep = major == Major::k ? clamp_to(valid - k, 8) : (k < valid ? 8 : 0);
    if (keep == 8) continue;
    auto chunk = load_vector<8>(tile + i * 8);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      if (j >= keep) chunk[j] = from_float<BFloat16>(0.0f);
    }
    store_vector(tile + i * 8, chunk);
  }
}

template <int Columns, Major major_a, Major major_b, typename T, bool Finish>
ENGINE_DEVICE void multiply_tiles(const Arguments& arguments, const Ring<Columns>& ring,
                                  const Tiles<Columns>& tiles, Shared<uint8_t> stages) {
  const int thread = static_cast<int>(threadIdx.x) - kWarpgroup;
  const int half = thread / kWarpgroup, warp = thread / kWarp;
  const bool leader = elect_lane();
  const MatmulSizes& sizes = tiles.sizes;
  const Shared<uint8_t> my_stages = stages + warp * 2 * kStageBytes;
  // To every block that fills this slot here. The wait before covers this warp's reads only.
  const auto release = [&](int slot) {
    if (lane_index() < tiles.cluster) mbarrier_release_at(ring.empty + slot, lane_index());
  };
  float sums[Columns / 2];
  RingPosition<kSlots<Columns>> at;
  for (int tile = tiles.first(); tile < tiles.count(); tile += tiles.step()) {
    const auto [position, depths] = tiles.at(arguments.problem, tile);
    const int steps = tiles.steps(depths);
    // k that belong to the extent in the last step, if the matrices go on behind it
    const int valid = sizes.k < arguments.problem.k ? depths.k - (steps - 1) * kDepth : kDepth;
    uint32_t bias[Columns / 64];
    load_bias<Columns>(bias, arguments.problem, position.column);
    if constexpr (Finish && sizeof(T) == 2) {
      prefetch_inputs<T>(arguments.problem, {position.row, position.column, 0}, kRows, Columns,
                         thread, 2 * kWarpgroup);
    }
    int previous = 0;
    for (int step = 0; step < steps; ++step) {
      mbarrier_wait(ring.full + at.slot, at.parity);
      if (valid < kDepth && step == steps - 1) {
        clear_beyond<major_a>(ring.a(at.slot), kRows, valid, thread);
        clear_beyond<major_b>(ring.b(at.slot), Columns, valid, thread);
        fence_async_proxy();
        sync_named_barrier(kConsumerBarrier, 2 * kWarpgroup);
      }
      const MatrixTile<major_a> a(ring.a(at.slot) + half * kBox);
      const MatrixTile<major_b> b(ring.b(at.slot));
      warpgroup_fence();
#pragma unroll
      for (int k = 0; k < kDepth; k += 16) {
        wgmma<Columns>(sums, a.at_k(k), b.at_k(k), step > 0 || k > 0);
      }
      warpgroup_commit();
      warpgroup_wait<1>();
      if (step > 0) release(previous);
      previous = at.slot;
      at.advance();
    }
    warpgroup_wait<0>();
    release(previous);
    const int row = position.row + half * 64 + warp % 4 * 16;
    if constexpr (Finish && sizeof(T) == 2) {
      finish_tile<Columns>(arguments.problem, sizes, sums, bias, my_stages, row, position.column);
    } else {
      write_tile<Columns, T, Finish>(arguments, sizes, sums, bias, my_stages, row, position.column,
                                     depths.part, leader);
    }
  }
  if (leader) bulk_wait_group_read<0>();
}

template <int Columns, Major major_a, Major major_b, typename T, bool Finish>
__global__ void __launch_bounds__(kThreads, 1)
    matmul_kernel(const __grid_constant__ Arguments arguments) {
  SharedMemory memory;
  Ring<Columns> ring;
  ring.tiles = memory.take<BFloat16>(kSlots<Columns> * (kRows + Columns) * kDepth, 1024);
  const auto stages = memory.take<uint8_t>(2 * kConsumerWarps * kStageBytes, 1024);
  ring.full = memory.take<uint64_t>(2 * kSlots<Columns>);
  ring.empty = ring.full + kSlots<Columns>;
  const Tiles<Columns> tiles(arguments.problem);
  if (threadIdx.x == 0) {
    prefetch_tensor_map(arguments.a);
    prefetch_tensor_map(arguments.b);
    prefetch_tensor_map(arguments.d);
    for (int slot = 0; slot < kSlots<Columns>; ++slot) {
      mbarrier_init(ring.full + slot, 1);
      mbarrier_init(ring.empty + slot, kConsumerWarps * tiles.cluster);
    }
    fence_mbarrier_init();
  }
  sync_cluster();
  if (threadIdx.x < kWarpgroup) {
    give_up_registers<40>();
    if (warp_index() == 0 && elect_lane()) {
      load_tiles<Columns, major_a, major_b>(arguments, ring, tiles);
    }
    sync_warp();
  } else {
    take_registers<232>();
    multiply_tiles<Columns, major_a, major_b, T, Finish>(arguments, ring, tiles, stages);
  }
  // No block ends while the other may still send to it or arrive at its barriers.
  sync_cluster();
}

// --- Host --------------------------------------------------------------------------------------

struct Plan {
  int columns, cluster;

  const char* name(bool finish) const {
    if (columns == 256) {
      if (cluster == 2)
        return finish ? "matmul_wgmma_finish_128x256_pairs" : "matmul_wgmma_128x256_pairs";
      return finish ? "matmul_wgmma_finish_128x256" : "matmul_wgmma_128x256";
    }
    if (cluster == 2)
      return finish ? "matmul_wgmma_finish_128x128_pairs" : "matmul_wgmma_128x128_pairs";
    return finish ? "matmul_wgmma_finish_128x128" : "matmul_wgmma_128x128";
  }
};

template <int Columns, Major major_a, Major major_b, typename T, bool Finish>
void launch_kernel(Stream stream, const Arguments& arguments, const Plan& plan,
                   int multiprocessors) {
  const MatmulProblem& p = arguments.problem;
  const int64_t tiles =
      p.parts * ceil_div<int64_t>(p.m, kRows * plan.cluster) * ceil_div<int64_t>(p.n, Columns);
  const int64_t most = multiprocessors / plan.cluster;
  const auto clusters = static_cast<unsigned>(tiles < most ? tiles : most);
  constexpr int kSlotElements = (kRows + Columns) * kDepth;
  SharedSize size;
  size.take<BFloat16>(kSlots<Columns> * kSlotElements, 1024);
  size.take<uint8_t>(2 * kConsumerWarps * kStageBytes, 1024);
  size.take<uint64_t>(2 * kSlots<Columns>);
  const char* const name = plan.name(Finish);
  launch(stream, name, matmul_kernel<Columns, major_a, major_b, T, Finish>,
         {.grid = {clusters * static_cast<unsigned>(plan.cluster)},
          .block = {kThreads},
          .cluster = static_cast<unsigned>(plan.cluster),
          .shared_bytes = size.bytes()},
         arguments);
}

// Products with an epilogue: wgmma_finish.cu. False for those that it does not take.
bool launch_finish(Stream stream, const Arguments& arguments, const Plan& plan,
                   int multiprocessors);

}  // namespace engine::kernels::ENGINE_GPU::wgmma_matmul
