// Matrix products on tensor cores by mma.sync, ldmatrix and cp.async, for sm_80 and newer: bf16,
// and fp32 as TF32.
//
// A block computes one tile of D. Tiles of A and B, 64 bytes deep, come through a ring of stages in
// shared memory; a warp holds its part of D in registers, and the fragments of the next step of k
// are read while those of the last are multiplied. D leaves through shared memory, so that every
// lane has four columns of a row.
//
// Floor: 2 m n k FLOPs of tensor core (A100: 312 TFLOP/s of bf16, 156 of TF32; mma.sync on Hopper
// reaches about 60 % of what wgmma does). Per 16 steps of k the 128 x 256 tile multiplies bf16 for
// 512 cycles of an A100 multiprocessor and moves 45 KB through shared memory, 352 cycles. TF32
// takes twice of both for each k; rounding its fragments is an instruction per register and read,
// as many as there are mma.
#pragma once

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/warp.h"
#include "kernels/cuda/matmul/finish.h"
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
  static constexpr int kStageBytes = (Rows + Columns) * 64;
  // A warp's rows of D on their way out, 32 at a time where they fit; 8 floats more per row keep
  // banks apart.
  static constexpr int kOutStride = WarpColumns + 8;
  static constexpr int kOutBytes = kWarpsDown * kWarpsAcross * kOutStride * 4;  // for one row each
  static constexpr int kOutRows = 32 * kOutBytes <= Stages * kStageBytes ? 32 : 16;
  static_assert(kOutRows * kOutBytes <= Stages * kStageBytes);

  static size_t shared_bytes() {
    return SharedSize().take<uint8_t>(Stages * kStageBytes, 128).bytes();
  }
};
struct MmaLarge : MmaShape<128, 256, 64, 64, 4> {};
struct MmaMedium : MmaShape<128, 128, 64, 64, 4> {};
struct MmaSmall : MmaShape<64, 64, 32, 32, 4> {};
struct MmaUnaligned : MmaShape<64, 64, 32, 32, 2> {};

// Each in a file of its own, for the compiler's time.
void matmul_mma_large(Stream stream, const MatmulProblem& problem);
void matmul_mma_medium(Stream stream, const MatmulProblem& problem);
void matmul_mma_finish(Stream stream, const MatmulProblem& problem);  // with an epilogue

// Where a block's tile begins in op(A) and op(B).
struct TileOrigin {
  TileColumns row, column;
};

// Copies of both operands into a stage.
template <typename Shape, typename ElementType, bool TransposeA, bool TransposeB, bool Finish>
struct AlignedOperands {
  using Element = ElementType;
  TileCopy<Element, Shape::kRows, !TransposeA, Shape::kThreads> a;
  TileCopy<Element, Shape::kColumns, TransposeB, Shape::kThreads, Finish> b;
  ENGINE_DEVICE AlignedOperands(const MatmulProblem& p, const DepthRange& depths,
                                const TileOrigin& origin)
      : a(p.a, p.lda, origin.row, depths), b(p.b, p.ldb, origin.column, depths) {}
};
template <typename Shape>
struct AnyOperands {
  using Element = BFloat16;
  TileCopyByElement<Shape::kRows, Shape::kThreads> a;
  TileCopyByElement<Shape::kColumns, Shape::kThreads> b;
  ENGINE_DEVICE AnyOperands(const MatmulProblem& p, const DepthRange& depths,
                            const TileOrigin& origin)
      : a(p.a, {p.transpose_a ? 1 : p.lda, p.transpose_a ? p.lda : 1}, origin.row, depths),
        b(p.b, {p.transpose_b ? p.ldb : 1, p.transpose_b ? 1 : p.ldb}, origin.column, depths) {}
};

// Where a warp's rows of D are read back from shared memory: kLanes lanes have a row, four columns
// each.
template <typename Shape>
struct OutLanes {
  static constexpr int kLanes = Shape::kWarpColumns / 4, kRowsAtATime = kWarp / kLanes;

  ENGINE_DEVICE static int row() { return lane_index() / kLanes; }
  ENGINE_DEVICE static int column() { return lane_index() % kLanes * 4; }
  ENGINE_DEVICE static void read(float (&sum)[4], Shared<float> sums, int pass) {
    const auto four =
        load_vector<4>(sums + (row() + pass * kRowsAtATime) * Shape::kOutStride + column());
#pragma unroll
    for (int e = 0; e < 4; ++e) sum[e] = four[e];
  }
};

// 16 rows of a warp's sums from registers to shared memory.
template <typename Shape, int kAcross>
ENGINE_DEVICE void stage_mma_rows(Shared<float> sums, const float (&d)[kAcross][4]) {
  const int lane = lane_index();
#pragma unroll
  for (int k = 0; k < kAcross; ++k) {
    const auto target = sums + lane / 4 * Shape::kOutStride + k * 8 + lane % 4 * 2;
    store_vector(target, Vector<float, 2>{d[k][0], d[k][1]});
    store_vector(target + 8 * Shape::kOutStride, Vector<float, 2>{d[k][2], d[k][3]});
  }
}

// A warp's sums to D, 16 rows at a time: from the registers of the mma into shared memory, and from
// there four columns per lane.
template <typename Shape, typename In, typename T, int kDown, int kAcross>
ENGINE_DEVICE void write_mma_tile(const MatmulProblem& p, const MatmulSizes& sizes, int part,
                                  const float (&d)[kDown][kAcross][4], Shared<float> sums, int row,
                                  int column) {
  using Lanes = OutLanes<Shape>;
  constexpr int kPasses = 16 / Lanes::kRowsAtATime;
  const int j = Lanes::column(), left = sizes.n - column - j;
  float bias[4];
  load_bias<4, In>(bias, p.bias, column + j, sizes.n);
#pragma unroll
  for (int i = 0; i < kDown; ++i) {
    const int first = row + i * 16 + Lanes::row();
    T* const to = static_cast<T*>(p.d) + part * p.part_stride + first * p.ldd + column + j;
    // All that is added to is read before anything is written: one wait for memory, not many.
    float before[kPasses][4] = {};
    if (p.accumulate) {
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
        if (first + pass * Lanes::kRowsAtATime < sizes.m) {
          load_four(before[pass], to + pass * Lanes::kRowsAtATime * p.ldd, left, p.vectors_d);
        }
      }
    }
    sync_warp();
    stage_mma_rows<Shape>(sums, d[i]);
    sync_warp();
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int r = pass * Lanes::kRowsAtATime;
      float sum[4];
      Lanes::read(sum, sums, pass);
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[e] += bias[e] + before[pass][e];
      if (first + r < sizes.m) store_four(to + r * p.ldd, sum, left, p.vectors_d);
    }
  }
}

// The same with an epilogue. T: what the product is rounded to.
template <typename Shape, typename In, typename T, int kDown, int kAcross>
ENGINE_DEVICE void finish_mma_tile(const MatmulProblem& p, const MatmulSizes& sizes,
                                   const float (&d)[kDown][kAcross][4], Shared<float> sums, int row,
                                   int column) {
  using Lanes = OutLanes<Shape>;
  constexpr int kStep = Lanes::kRowsAtATime, kTogether = Shape::kOutRows / 16;
  constexpr int kPasses = Shape::kOutRows / kStep;
  const int j = Lanes::column(), left = sizes.n - column - j;
  float bias[4];
  load_bias<4, In>(bias, p.bias, column + j, sizes.n);
#pragma unroll
  for (int i = 0; i < kDown; i += kTogether) {
    const int first = row + i * 16 + Lanes::row();
    const auto at = [&](int pass) {
      const int r = first + pass * kStep;
      return FourColumns{r, column + j, r < sizes.m ? left : 0};
    };
    FinishInputs next = read_inputs<T>(p, at(0));
    sync_warp();
#pragma unroll
    for (int h = 0; h < kTogether; ++h) {
      stage_mma_rows<Shape>(sums + h * 16 * Shape::kOutStride, d[i + h]);
    }
    sync_warp();
#pragma unroll 1
    for (int pass = 0; pass < kPasses; ++pass) {
      const FinishInputs inputs = next;
      if (pass + 1 < kPasses) next = read_inputs<T>(p, at(pass + 1));
      float sum[4];
      Lanes::read(sum, sums, pass);
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[e] += bias[e];
      if (p.finish.kind == MatmulFinish::Kind::softmax) {
        float z[4];
#pragma unroll
        for (int e = 0; e < 4; ++e) z[e] = e < left ? sum[e] * p.finish.scale : -infinity();
        const SoftmaxPart softmax = softmax_part<kSoftmaxPartColumns / 4>(z);
        if (j % kSoftmaxPartColumns == 0 && at(pass).left > 0) {
          store_softmax_part(p, at(pass).row, column + j, softmax);
        }
      }
      finish_four<T>(p, at(pass), inputs, sum);
    }
  }
}

// The same for pairs of columns: a warp has the gate, its neighbour has up, and each finishes half
// of the rows of both.
template <typename Shape, typename In, typename T, int kDown, int kAcross>
ENGINE_DEVICE void finish_mma_pairs(const MatmulProblem& p, const MatmulSizes& sizes,
                                    const float (&d)[kDown][kAcross][4], Shared<float> all_sums,
                                    int row, int column) {
  static_assert(Shape::kWarpsAcross == 2);
  using Lanes = OutLanes<Shape>;
  constexpr int kTogether = Shape::kOutRows / 16, kHalf = Shape::kOutRows / 2;
  constexpr int kWarpFloats = Shape::kOutRows * Shape::kOutStride;
  const int j = Lanes::column(), left = sizes.n - column - j, second = warp_index() % 2;
  const auto mine = all_sums + warp_index() * kWarpFloats;
  const auto gates =
      all_sums + (warp_index() - second) * kWarpFloats + second * kHalf * Shape::kOutStride;
  float bias_gate[4], bias_up[4] = {};
  load_bias<4, In>(bias_gate, p.bias, column + j, sizes.n);
  if (p.bias) {
    load_bias<4, In>(bias_up, static_cast<const In*>(p.bias) + sizes.n, column + j, sizes.n);
  }
#pragma unroll
  for (int i = 0; i < kDown; i += kTogether) {
    sync_threads();
#pragma unroll
    for (int h = 0; h < kTogether; ++h) {
      stage_mma_rows<Shape>(mine + h * 16 * Shape::kOutStride, d[i + h]);
    }
    sync_threads();
#pragma unroll 1
    for (int pass = 0; pass < kHalf / Lanes::kRowsAtATime; ++pass) {
      const int r = row + i * 16 + second * kHalf + Lanes::row() + pass * Lanes::kRowsAtATime;
      float gate[4], up[4];
      Lanes::read(gate, gates, pass);
      Lanes::read(up, gates + kWarpFloats, pass);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        gate[e] += bias_gate[e];
        up[e] += bias_up[e];
      }
      finish_pairs<T>(p, {r, column + j, r < sizes.m ? left : 0}, gate, up);
    }
  }
}

template <typename Shape, typename Operands, bool Finish>
__global__ void __launch_bounds__(Shape::kThreads) matmul_mma_kernel(const MatmulProblem p) {
  constexpr int kDown = Shape::kWarpRows / 16, kAcross = Shape::kWarpColumns / 8;
  using Element = typename Operands::Element;
  constexpr int kStages = Shape::kStages, kDepth = kTileDepth<Element>;
  constexpr int kSteps = kDepth / kMmaDepth<Element>;
  constexpr int kStageElements = Shape::kStageBytes / static_cast<int>(sizeof(Element));
  const MatmulSizes sizes = sizes_within(p);
  const BlockWork work = block_work(p, sizes, static_cast<int>(blockIdx.x),
                                    ceil_div(p.m, Shape::kRows), ceil_div(p.n, Shape::kColumns));
  const bool pairs = Finish && p.finish.pairs();
  const int row = work.tile.row * Shape::kRows;
  const int column = work.tile.column * (pairs ? Shape::kColumns / 2 : Shape::kColumns);
  if (row >= sizes.m) return;
  const int depths = ceil_div(work.depths.k, kDepth);
  if (depths == 0 && p.accumulate && !p.bias) return;

  SharedMemory shared;
  const auto stages =
      shared.take<uint8_t>(kStages * Shape::kStageBytes, 128).template as<Element>();
  const auto stage_a = [&](int stage) { return stages + stage * kStageElements; };
  const auto stage_b = [&](int stage) { return stage_a(stage) + Shape::kRows * kDepth; };

  const Operands operands(p, work.depths,
                          {{row, sizes.m, 0}, {column, sizes.n, pairs ? sizes.n : 0}});
  const auto start_copy = [&](int stage, int depth) {
    if (depth < depths) {
      operands.a.start(stage_a(stage), depth * kDepth);
      operands.b.start(stage_b(stage), depth * kDepth);
    }
    copy_async_commit_group();  // also an empty one: groups are counted
  };
  const int warp_row = warp_index() / Shape::kWarpsAcross * Shape::kWarpRows;
  const int warp_column = warp_index() % Shape::kWarpsAcross * Shape::kWarpColumns;
  const FragmentReader<Element, Shape::kRows, decltype(operands.a)::kContiguous, true> reader_a(
      warp_row);
  const FragmentReader<Element, Shape::kColumns, decltype(operands.b)::kContiguous, false> reader_b(
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
  if constexpr (Finish) {
    prefetch_inputs<Element>(p, {row, column, 0}, Shape::kRows, Shape::kColumns,
                             static_cast<int>(threadIdx.x), Shape::kThreads);
  }
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
          multiply_fragments<Element>(d[i][j], a[step % 2][i], column_fragment);
        }
      }
    }
    stage = next;
  }
  static_assert(kSteps == 2, "the fragments of step 0 are always in buffer 0");

  copy_async_wait_group<0>();
  sync_threads();  // the stages become room for D
  const auto all_sums = stages.template as<float>();
  const auto sums = all_sums + warp_index() * Shape::kOutRows * Shape::kOutStride;
  if constexpr (Finish) {
    if (pairs) {
      finish_mma_pairs<Shape, Element, Element>(p, sizes, d, all_sums, row + warp_row, column);
      return;
    }
    if (p.finish.kind == MatmulFinish::Kind::softmax) {
      finish_mma_tile<Shape, Element, float>(p, sizes, d, sums, row + warp_row,
                                             column + warp_column);
      return;
    }
    if (p.finish.kind != MatmulFinish::Kind::none) {
      finish_mma_tile<Shape, Element, Element>(p, sizes, d, sums, row + warp_row,
                                               column + warp_column);
      return;
    }
  }
  if (p.output_bf16) {
    write_mma_tile<Shape, Element, BFloat16>(p, sizes, work.depths.part, d, sums, row + warp_row,
                                             column + warp_column);
  } else {
    write_mma_tile<Shape, Element, float>(p, sizes, work.depths.part, d, sums, row + warp_row,
                                          column + warp_column);
  }
}

template <typename Shape, typename Operands, bool Finish>
void start_mma(Stream stream, const char* name, const MatmulProblem& p) {
  const int64_t tiles =
      p.parts * ceil_div<int64_t>(p.m, Shape::kRows) * ceil_div<int64_t>(p.n, Shape::kColumns);
  require(tiles < INT32_MAX, "matmul: more tiles than a grid has blocks");
  launch(stream, name, matmul_mma_kernel<Shape, Operands, Finish>,
         {.grid = {static_cast<unsigned>(tiles)},
          .block = {Shape::kThreads},
          .shared_bytes = Shape::shared_bytes()},
         p);
}

template <typename Shape, typename Element, bool Finish>
void start_mma_aligned(Stream stream, const char* name, const MatmulProblem& p) {
  if (p.transpose_b) {
    start_mma<Shape, AlignedOperands<Shape, Element, false, true, Finish>, Finish>(stream, name, p);
  } else {
    start_mma<Shape, AlignedOperands<Shape, Element, false, false, Finish>, Finish>(stream, name,
                                                                                    p);
  }
}
// Weight gradients, whose A is transposed, have no epilogue.
template <typename Shape, typename Element>
void start_mma_plain(Stream stream, const char* name, const MatmulProblem& p) {
  if (p.transpose_a) {
    start_mma<Shape, AlignedOperands<Shape, Element, true, false, false>, false>(stream, name, p);
  } else {
    start_mma_aligned<Shape, Element, false>(stream, name, p);
  }
}

}  // namespace engine::kernels::ENGINE_GPU
