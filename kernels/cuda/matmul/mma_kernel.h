// bf16 matrix products on tensor cores: mma.sync, ldmatrix and cp.async, for sm_80 and newer.
//
// A block computes one tile of D. Tiles of A and B, 32 deep, come through a ring of stages in
// shared memory; a warp holds its part of D in registers, and the fragments of the next 16 steps
// of k are read while those of the last are multiplied. D leaves through shared memory, so that
// every lane has four columns of a row.
//
// Floor: 2 m n k FLOPs of tensor core (A100: 312 TFLOP/s; mma.sync on Hopper reaches about 60 % of
// what wgmma does). Per 16 steps of k the 128 x 256 tile multiplies for 512 cycles of an A100
// multiprocessor and moves 45 KB through shared memory, 352 cycles.
#pragma once

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/warp.h"
#include "kernels/cuda/matmul/mma_tile.h"
#include "kernels/cuda/matmul/problem.h"

namespace engine::kernels::ENGINE_GPU {

template <int Rows, int Columns, int WarpRows, int WarpColumns, int Stages>
struct MmaShape {
  static constexpr int kRows = Rows, kColumns = Columns;  // of the block's tile of D
  static constexpr int kWarpRows = WarpRows, kWarpColumns = WarpColumns;
  static constexpr int kWarpsDown = Rows / WarpRows, kWarpsAcross = Columns / WarpColumns;
  static constexpr int kThreads = kWarpsDown * kWarpsAcross * kWarp;
  static constexpr int kStages = Stages;
  static constexpr int kStageElements = (Rows + Columns) * kDepth;
  // A warp's rows of D on their way out, 16 at a time; 8 floats more per row keep banks apart.
  static constexpr int kOutStride = WarpColumns + 8;
  static constexpr int kOutFloats = kWarpsDown * kWarpsAcross * 16 * kOutStride;
  static_assert(kOutFloats * 4 <= Stages * kStageElements * 2);

  static size_t shared_bytes() {
    return SharedSize().take<BFloat16>(Stages * kStageElements, 128).bytes();
  }
};
struct MmaLarge : MmaShape<128, 256, 64, 64, 4> {
  static constexpr const char* kName = "matmul_mma_128x256";
};
struct MmaMedium : MmaShape<128, 128, 64, 64, 4> {
  static constexpr const char* kName = "matmul_mma_128x128";
};
struct MmaSmall : MmaShape<64, 64, 32, 32, 4> {
  static constexpr const char* kName = "matmul_mma_64x64";
};
struct MmaUnaligned : MmaShape<64, 64, 32, 32, 2> {
  static constexpr const char* kName = "matmul_mma_unaligned";
};

// Each in a file of its own, for the compiler's time.
void matmul_mma_large(Stream stream, const MatmulProblem& problem);
void matmul_mma_medium(Stream stream, const MatmulProblem& problem);

// Copies of both operands into a stage.
template <typename Shape, bool TransposeA, bool TransposeB>
struct AlignedOperands {
  TileCopy<Shape::kRows, !TransposeA, Shape::kThreads> a;
  TileCopy<Shape::kColumns, TransposeB, Shape::kThreads> b;
  ENGINE_DEVICE AlignedOperands(const MatmulProblem& p, const MatmulSizes& sizes,
                                const DepthRange& depths, int row, int column)
      : a(p.a, p.lda, row, sizes.m, depths), b(p.b, p.ldb, column, sizes.n, depths) {}
};
template <typename Shape>
struct AnyOperands {
  TileCopyByElement<Shape::kRows, Shape::kThreads> a;
  TileCopyByElement<Shape::kColumns, Shape::kThreads> b;
  ENGINE_DEVICE AnyOperands(const MatmulProblem& p, const MatmulSizes& sizes,
                            const DepthRange& depths, int row, int column)
      : a(p.a, p.transpose_a ? 1 : p.lda, p.transpose_a ? p.lda : 1, row, sizes.m, depths),
        b(p.b, p.transpose_b ? p.ldb : 1, p.transpose_b ? 1 : p.ldb, column, sizes.n, depths) {}
};

// A warp's sums to D, 16 rows at a time: from the registers of the mma into shared memory, and from
// there four columns per lane.
template <typename Shape, typename T, int kDown, int kAcross>
ENGINE_DEVICE void write_mma_tile(const MatmulProblem& p, const MatmulSizes& sizes, int part,
                                  const float (&d)[kDown][kAcross][4], Shared<float> sums, int row,
                                  int column) {
  constexpr int kLanes = Shape::kWarpColumns / 4, kRowsAtATime = kWarp / kLanes;
  constexpr int kPasses = 16 / kRowsAtATime;
  const int lane = lane_index(), j = lane % kLanes * 4, left = sizes.n - column - j;
  float bias[4];
  load_bias<4, BFloat16>(bias, p.bias, column + j, sizes.n);
#pragma unroll
  for (int i = 0; i < kDown; ++i) {
    const int first = row + i * 16 + lane / kLanes;
    T* const to = static_cast<T*>(p.d) + part * p.part_stride + first * p.ldd + column + j;
    // All that is added to is read before anything is written: one wait for memory, not many.
    float before[kPasses][4] = {};
    if (p.accumulate) {
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
        if (first + pass * kRowsAtATime < sizes.m) {
          load_four(before[pass], to + pass * kRowsAtATime * p.ldd, left, p.vectors_d);
        }
      }
    }
    sync_warp();
#pragma unroll
    for (int k = 0; k < kAcross; ++k) {
      const auto target = sums + lane / 4 * Shape::kOutStride + k * 8 + lane % 4 * 2;
      store_vector(target, Vector<float, 2>{d[i][k][0], d[i][k][1]});
      store_vector(target + 8 * Shape::kOutStride, Vector<float, 2>{d[i][k][2], d[i][k][3]});
    }
    sync_warp();
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int r = pass * kRowsAtATime;
      const auto four = load_vector<4>(sums + (lane / kLanes + r) * Shape::kOutStride + j);
      float sum[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[e] = four[e] + (bias[e] + before[pass][e]);
      if (first + r < sizes.m) store_four(to + r * p.ldd, sum, left, p.vectors_d);
    }
  }
}

template <typename Shape, typename Operands>
__global__ void __launch_bounds__(Shape::kThreads) matmul_mma_kernel(const MatmulProblem p) {
  constexpr int kDown = Shape::kWarpRows / 16, kAcross = Shape::kWarpColumns / 8;
  constexpr int kStages = Shape::kStages, kSteps = kDepth / 16;
  const MatmulSizes sizes = sizes_within(p);
  const BlockWork work = block_work(p, sizes, static_cast<int>(blockIdx.x),
                                    ceil_div(p.m, Shape::kRows), ceil_div(p.n, Shape::kColumns));
  const int row = work.tile.row * Shape::kRows, column = work.tile.column * Shape::kColumns;
  if (row >= sizes.m) return;
  const int depths = ceil_div(work.depths.k, kDepth);
  if (depths == 0 && p.accumulate && !p.bias) return;

  SharedMemory shared;
  const auto stages = shared.take<BFloat16>(kStages * Shape::kStageElements, 128);
  const auto stage_a = [&](int stage) { return stages + stage * Shape::kStageElements; };
  const auto stage_b = [&](int stage) { return stage_a(stage) + Shape::kRows * kDepth; };

  const Operands operands(p, sizes, work.depths, row, column);
  const auto start_copy = [&](int stage, int depth) {
    if (depth < depths) {
      operands.a.start(stage_a(stage), depth * kDepth);
      operands.b.start(stage_b(stage), depth * kDepth);
    }
    copy_async_commit_group();  // also an empty one: groups are counted
  };
  const int warp_row = warp_index() / Shape::kWarpsAcross * Shape::kWarpRows;
  const int warp_column = warp_index() % Shape::kWarpsAcross * Shape::kWarpColumns;
  const FragmentReader<Shape::kRows, decltype(operands.a)::kContiguous, true> reader_a(warp_row);
  const FragmentReader<Shape::kColumns, decltype(operands.b)::kContiguous, false> reader_b(
      warp_column);

  float d[kDown][kAcross][4] = {};
  uint32_t a[2][kDown][4], b[2][kAcross / 2][4];
  const auto read_fragments = [&](int buffer, int stage, int step) {
#pragma unroll
    for (int i = 0; i < kDown; ++i) reader_a.read(a[buffer][i], stage_a(stage), i, step);
#pragma unroll
    for (int j = 0; j < kAcross / 2; ++j) reader_b.read(b[buffer][j], stage_b(stage), j, step);
  };

#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) start_copy(stage, stage);
  copy_async_wait_group<kStages - 2>();
  sync_threads();
  if (depths > 0) read_fragments(0, 0, 0);

  int stage = 0;
  for (int depth = 0; depth < depths; ++depth) {
    const int next = stage + 1 == kStages ? 0 : stage + 1;
    // Into the stage of depth - 1: every warp read its last fragments before the last barrier.
    start_copy(stage == 0 ? kStages - 1 : stage - 1, depth + kStages - 1);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      if (step + 1 < kSteps) {
        read_fragments((step + 1) % 2, stage, step + 1);
      } else {
        copy_async_wait_group<kStages - 2>();
        sync_threads();
        read_fragments(0, next, 0);  // after the last depth: bytes that nothing uses
      }
#pragma unroll
      for (int i = 0; i < kDown; ++i) {
#pragma unroll
        for (int j = 0; j < kAcross; ++j) {
          const uint32_t(&pair)[4] = b[step % 2][j / 2];
          const uint32_t column_fragment[2] = {pair[j % 2 * 2], pair[j % 2 * 2 + 1]};
          mma_bf16(d[i][j], a[step % 2][i], column_fragment);
        }
      }
    }
    stage = next;
  }
  static_assert(kSteps == 2, "the fragments of step 0 are always in buffer 0");

  copy_async_wait_group<0>();
  sync_threads();  // the stages become room for D
  const auto sums = stages.template as<float>() + warp_index() * 16 * Shape::kOutStride;
  if (p.output_bf16) {
    write_mma_tile<Shape, BFloat16>(p, sizes, work.depths.part, d, sums, row + warp_row,
                                    column + warp_column);
  } else {
    write_mma_tile<Shape, float>(p, sizes, work.depths.part, d, sums, row + warp_row,
                                 column + warp_column);
  }
}

template <typename Shape, typename Operands>
void start_mma(Stream stream, const MatmulProblem& p) {
  const int64_t tiles =
      p.parts * ceil_div<int64_t>(p.m, Shape::kRows) * ceil_div<int64_t>(p.n, Shape::kColumns);
  require(tiles < INT32_MAX, "matmul: more tiles than a grid has blocks");
  launch(stream, Shape::kName, matmul_mma_kernel<Shape, Operands>,
         {.grid = {static_cast<unsigned>(tiles)},
          .block = {Shape::kThreads},
          .shared_bytes = Shape::shared_bytes()},
         p);
}

template <typename Shape>
void start_mma_aligned(Stream stream, const MatmulProblem& p) {
  if (p.transpose_a) {
    start_mma<Shape, AlignedOperands<Shape, true, false>>(stream, p);
  } else if (p.transpose_b) {
    start_mma<Shape, AlignedOperands<Shape, false, true>>(stream, p);
  } else {
    start_mma<Shape, AlignedOperands<Shape, false, false>>(stream, p);
  }
}

}  // namespace engine::kernels::ENGINE_GPU
