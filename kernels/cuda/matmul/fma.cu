// fp32 matrix products on the arithmetic units: every product and sum in fp32, no tensor cores.
//
// A block computes one tile of D, a thread 8 x 8 (or 4 x 8) of its elements in registers. Tiles of
// A and B, 16 deep, come through a ring of stages in shared memory by cp.async. There they lie with
// k first, so that a thread reads its rows and columns 4 at a time; operands with k contiguous in
// device memory are turned on the way, 4 bytes at a time. No row needs any alignment for that.
//
// Floor: m n k fused multiply-adds, 128 per cycle and multiprocessor (A100 19.5, H100 67 TFLOP/s).
// For 64 of them (8 x 8) a thread reads 64 bytes of shared memory, which the lanes of a warp share.
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device/cp_async.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/warp.h"
#include "kernels/cuda/matmul/finish.h"
#include "kernels/cuda/matmul/problem.h"

namespace engine::kernels::ENGINE_GPU {
namespace {

constexpr int kFmaDepth = 16;  // of a tile, along k
constexpr int kFmaStages = 3;

// A warp's lanes are 8 down and 4 across; a lane has groups of 4 rows, 32 apart, and two groups of
// 4 columns, 16 apart: what the lanes read together is then contiguous.
template <int Rows, int Columns, int WarpRows>
struct FmaShape {
  static constexpr int kRows = Rows, kColumns = Columns;
  static constexpr int kWarpRows = WarpRows, kWarpColumns = 32;
  static constexpr int kWarpsAcross = Columns / kWarpColumns;
  static constexpr int kThreads = Rows / WarpRows * kWarpsAcross * kWarp;
  static constexpr int kRowGroups = WarpRows / 32;
  // 4 floats more per row: lanes that turn an operand write to different banks.
  static constexpr int kStrideA = Rows + 4, kStrideB = Columns + 4;
  static constexpr int kStageFloats = kFmaDepth * (kStrideA + kStrideB);

  static size_t shared_bytes() {
    return SharedSize().take<float>(kFmaStages * kStageFloats).bytes();
  }
};
struct Large : FmaShape<128, 128, 64> {};
struct Small : FmaShape<64, 64, 32> {};

// Of pairs of columns a tile has 16 of the gate, then 16 of up, and so on: a thread, whose two
// groups of columns are 16 apart, then has both.
//
// One thread's part of copying tiles of an operand: [kFmaDepth][Extent + 4], from k or mn
// contiguous. What lies outside the matrix arrives as 0.
template <int Extent, int Threads, bool Pairs>
class FmaTileCopy {
 public:
  ENGINE_DEVICE FmaTileCopy(const void* operand, int64_t stride, bool k_contiguous, bool vectors,
                            int first, int extent, const DepthRange& depths)
      : stride_(stride),
        k_contiguous_(k_contiguous),
        vectors_(vectors && !k_contiguous),
        apart_(extent) {
    const int thread = static_cast<int>(threadIdx.x);
    int k, mn;
    if (k_contiguous) {  // 8 lanes along k, then the next row
      k = thread % 8;
      mn = thread / 8;
    } else if (vectors) {
      k = thread / (Extent / 4);
      mn = thread % (Extent / 4) * 4;
    } else {
      k = thread / Extent;
      mn = thread % Extent;
    }
    target_ = k * kStride + mn;
    mn_ = mn;
    left_ = extent - first - (Pairs ? 0 : mn);
    k_left_ = depths.k - k;
    const int64_t at = first + (Pairs ? 0 : mn);
    source_ = static_cast<const float*>(operand) + depths.first * (k_contiguous ? 1 : stride) +
              (k_contiguous ? at * stride + k : k * stride + at);
  }
  ENGINE_DEVICE void start(Shared<float> tile, int depth) const {
    const auto to = tile + target_;
    const int k_left = k_left_ - depth;
    if (k_contiguous_) {
#pragma unroll
      for (int half = 0; half < kFmaDepth / 8; ++half) {
#pragma unroll
        for (int i = 0; i < Extent * 8 / Threads; ++i) {
          constexpr int kAtATime = Threads / 8;
          copy_async_4(to + half * 8 * kStride + i * kAtATime,
                       source_ + from(i * kAtATime, apart_) * stride_ + depth + half * 8,
                       half * 8 < k_left && from(i * kAtATime, 0) < left_);
        }
      }
    } else if (vectors_) {
      constexpr int kAtATime = Threads / (Extent / 4);
#pragma unroll
      for (int i = 0; i < kFmaDepth / kAtATime; ++i) {
        const int row = depth + i * kAtATime;
        copy_async_16_partial(to + i * kAtATime * kStride,
                              source_ + row * stride_ + from(0, apart_),
                              i * kAtATime < k_left ? clamp_to(left_ - from(0, 0), 4) * 4 : 0);
      }
    } else {
      constexpr int kAtATime = Threads / Extent;
#pragma unroll
      for (int i = 0; i < kFmaDepth / kAtATime; ++i) {
        const int row = depth + i * kAtATime;
        copy_async_4(to + i * kAtATime * kStride, source_ + row * stride_ + from(0, apart_),
                     i * kAtATime < k_left && from(0, 0) < left_);
      }
    }
  }

 private:
  static constexpr int kStride = Extent + 4;

  // Rows or columns of the operand from source_ to what lies `step` after the thread's first in the
  // tile; `apart`: from the gate's columns to those of up.
  ENGINE_DEVICE int from(int step, int apart) const {
    if constexpr (!Pairs) return step;
    const int mn = mn_ + step;
    return mn / 32 * 16 + mn % 16 + (mn % 32 < 16 ? 0 : apart);
  }

  const float* source_;
  int64_t stride_;
  bool k_contiguous_, vectors_;
  int apart_, target_, mn_, left_, k_left_;
};

template <typename Shape, typename T>
ENGINE_DEVICE void write_tile(const MatmulProblem& p, const MatmulSizes& sizes, int part_of_k,
                              const float (&d)[Shape::kRowGroups * 4][8], int row, int column) {
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    const int first = column + part * 16, left = sizes.n - first;
    float bias[4];
    load_bias<4, float>(bias, p.bias, first, sizes.n);
#pragma unroll
    for (int group = 0; group < Shape::kRowGroups; ++group) {
      const int top = row + group * 32;
      T* const to = static_cast<T*>(p.d) + part_of_k * p.part_stride + top * p.ldd + first;
      // What is added to is read before anything is written: few waits for memory.
      float before[4][4] = {};
      if (p.accumulate) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (top + i < sizes.m) load_four(before[i], to + i * p.ldd, left, p.vectors_d);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float sum[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          sum[j] = d[group * 4 + i][part * 4 + j] + (bias[j] + before[i][j]);
        }
        if (top + i < sizes.m) store_four(to + i * p.ldd, sum, left, p.vectors_d);
      }
    }
  }
}

// The parts of the softmax: the four lanes across have 32 columns of a row.
template <typename Shape>
ENGINE_DEVICE void write_softmax_parts(const MatmulProblem& p, const MatmulSizes& sizes,
                                       const float (&d)[Shape::kRowGroups * 4][8], int row,
                                       int column) {
#pragma unroll
  for (int i = 0; i < Shape::kRowGroups * 4; ++i) {
    const int r = row + i / 4 * 32 + i % 4;
    float z[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      z[j] = column + j / 4 * 16 + j % 4 < sizes.n ? d[i][j] * p.finish.scale : -infinity();
    }
    const SoftmaxPart softmax = softmax_part<4>(z);
    const int first = column - lane_index() % 4 * 4;
    if (lane_index() % 4 == 0 && r < sizes.m && first < sizes.n) {
      store_softmax_part(p, r, first, softmax);
    }
  }
}

// Epilogues. What a thread has goes to shared memory and comes back in a loop: the code of all
// activations for every register would be long.
template <typename Shape, bool Pairs>
ENGINE_DEVICE void finish_tile(const MatmulProblem& p, const MatmulSizes& sizes,
                               Shared<float> scratch, const float (&d)[Shape::kRowGroups * 4][8],
                               int row, int column) {
  constexpr int kHeight = Shape::kRowGroups * 4;
  static_assert(kHeight * 8 * Shape::kThreads <= kFmaStages * Shape::kStageFloats);
  const auto mine = scratch + static_cast<int>(threadIdx.x) * 4;
  // Four columns of row i of the thread; `part`: its first or second group of columns.
  const auto place = [&](int i, int part) { return mine + (i * 2 + part) * Shape::kThreads * 4; };
  const auto take = [&](float(&four)[4], int i, int part, const float(&bias)[4]) {
    const auto from = load_vector<4>(place(i, part));
#pragma unroll
    for (int j = 0; j < 4; ++j) four[j] = from[j] + bias[j];
  };
  sync_threads();  // nobody reads tiles any more
#pragma unroll
  for (int i = 0; i < kHeight; ++i) {
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      const float* const x = d[i] + part * 4;
      store_vector(place(i, part), Vector<float, 4>{x[0], x[1], x[2], x[3]});
    }
  }
  const auto at = [&](int i, int part) {
    const int r = row + i / 4 * 32 + i % 4, first = column + part * 16;
    return FourColumns{r, first, r < sizes.m ? sizes.n - first : 0};
  };
  if constexpr (Pairs) {
    float bias_gate[4], bias_up[4] = {};
    load_bias<4, float>(bias_gate, p.bias, column, sizes.n);
    if (p.bias) {
      load_bias<4, float>(bias_up, static_cast<const float*>(p.bias) + sizes.n, column, sizes.n);
    }
#pragma unroll 1
    for (int i = 0; i < kHeight; ++i) {
      float gate[4], up[4];
      take(gate, i, 0, bias_gate);
      take(up, i, 1, bias_up);
      finish_pairs<float>(p, at(i, 0), gate, up);
    }
  } else {
#pragma unroll 1
    for (int part = 0; part < 2; ++part) {
      float bias[4];
      load_bias<4, float>(bias, p.bias, column + part * 16, sizes.n);
      FinishInputs next = read_inputs<float>(p, at(0, part));
#pragma unroll 1
      for (int i = 0; i < kHeight; ++i) {
        const FinishInputs inputs = next;
        if (i + 1 < kHeight) next = read_inputs<float>(p, at(i + 1, part));
        float sum[4];
        take(sum, i, part, bias);
        finish_four<float>(p, at(i, part), inputs, sum);
      }
    }
  }
}

// Without an epilogue, with parts of the softmax, with an epilogue, and with that of a gated
// activation. The last two are for the small tile: the large one has no registers left for what
// they need after the loop.
enum class FmaKind : uint8_t { plain, softmax, finish, pairs };

template <typename Shape, FmaKind kind>
__global__ void __launch_bounds__(Shape::kThreads, 512 / Shape::kThreads)
    matmul_fma_kernel(const MatmulProblem p) {
  constexpr int kHeight = Shape::kRowGroups * 4;
  const MatmulSizes sizes = sizes_within(p);
  const BlockWork work = block_work(p, sizes, static_cast<int>(blockIdx.x),
                                    ceil_div(p.m, Shape::kRows), ceil_div(p.n, Shape::kColumns));
  constexpr bool kPairs = kind == FmaKind::pairs;
  const int row = work.tile.row * Shape::kRows;
  const int column = work.tile.column * Shape::kColumns / (kPairs ? 2 : 1);
  if (row >= sizes.m) return;
  const int depths = ceil_div(work.depths.k, kFmaDepth);
  if (depths == 0 && p.accumulate && !p.bias) return;

  SharedMemory shared;
  const auto stages = shared.take<float>(kFmaStages * Shape::kStageFloats);
  const FmaTileCopy<Shape::kRows, Shape::kThreads, false> copy_a(
      p.a, p.lda, !p.transpose_a, p.vectors_a, row, sizes.m, work.depths);
  const FmaTileCopy<Shape::kColumns, Shape::kThreads, kPairs> copy_b(
      p.b, p.ldb, p.transpose_b, p.vectors_b, column, sizes.n, work.depths);
  const auto start_copy = [&](int stage, int depth) {
    if (depth < depths) {
      const auto to = stages + stage * Shape::kStageFloats;
      copy_a.start(to, depth * kFmaDepth);
      copy_b.start(to + kFmaDepth * Shape::kStrideA, depth * kFmaDepth);
    }
    copy_async_commit_group();  // also an empty one: groups are counted
  };

  const int lane = lane_index();
  const int thread_row = warp_index() / Shape::kWarpsAcross * Shape::kWarpRows + lane / 4 * 4;
  const int thread_column = warp_index() % Shape::kWarpsAcross * Shape::kWarpColumns + lane % 4 * 4;
  float d[kHeight][8] = {};

#pragma unroll
  for (int stage = 0; stage < kFmaStages - 1; ++stage) start_copy(stage, stage);
  int stage = 0;
  for (int depth = 0; depth < depths; ++depth) {
    copy_async_wait_group<kFmaStages - 2>();
    sync_threads();  // the tile of `depth` is there, and nobody reads that of depth - 1 any more
    start_copy(stage == 0 ? kFmaStages - 1 : stage - 1, depth + kFmaStages - 1);
    const auto tile_a = stages + stage * Shape::kStageFloats + thread_row;
    const auto tile_b =
        stages + stage * Shape::kStageFloats + kFmaDepth * Shape::kStrideA + thread_column;
#pragma unroll
    for (int k = 0; k < kFmaDepth; ++k) {
      float a[kHeight], b[8];
#pragma unroll
      for (int group = 0; group < Shape::kRowGroups; ++group) {
        const auto four = load_vector<4>(tile_a + k * Shape::kStrideA + group * 32);
#pragma unroll
        for (int e = 0; e < 4; ++e) a[group * 4 + e] = four[e];
      }
#pragma unroll
      for (int group = 0; group < 2; ++group) {
        const auto four = load_vector<4>(tile_b + k * Shape::kStrideB + group * 16);
#pragma unroll
        for (int e = 0; e < 4; ++e) b[group * 4 + e] = four[e];
      }
#pragma unroll
      for (int i = 0; i < kHeight; ++i) {
#pragma unroll
        for (int j = 0; j < 8; ++j) d[i][j] += a[i] * b[j];
      }
    }
    stage = stage + 1 == kFmaStages ? 0 : stage + 1;
  }
  copy_async_wait_group<0>();

  if constexpr (kind == FmaKind::pairs) {
    const int half = warp_index() % Shape::kWarpsAcross * 16 + lane % 4 * 4;
    finish_tile<Shape, true>(p, sizes, stages, d, row + thread_row, column + half);
  } else if constexpr (kind == FmaKind::finish) {
    finish_tile<Shape, false>(p, sizes, stages, d, row + thread_row, column + thread_column);
  } else if constexpr (kind == FmaKind::softmax) {
    write_softmax_parts<Shape>(p, sizes, d, row + thread_row, column + thread_column);
    write_tile<Shape, float>(p, sizes, work.depths.part, d, row + thread_row,
                             column + thread_column);
  } else if (p.output_bf16) {
    write_tile<Shape, BFloat16>(p, sizes, work.depths.part, d, row + thread_row,
                                column + thread_column);
  } else {
    write_tile<Shape, float>(p, sizes, work.depths.part, d, row + thread_row,
                             column + thread_column);
  }
}

template <typename Shape, FmaKind kind>
void start(Stream stream, const char* name, const MatmulProblem& p) {
  const int64_t tiles =
      p.parts * ceil_div<int64_t>(p.m, Shape::kRows) * ceil_div<int64_t>(p.n, Shape::kColumns);
  require(tiles < INT32_MAX, "matmul: more tiles than a grid has blocks");
  launch(stream, name, matmul_fma_kernel<Shape, kind>,
         {.grid = {static_cast<unsigned>(tiles)},
          .block = {Shape::kThreads},
          .shared_bytes = Shape::shared_bytes()},
         p);
}

template <FmaKind kind>
void choose_and_start(Stream stream, const MatmulProblem& p) {
  // Cycles per k: 128 products per cycle; the small tile reads more shared memory per product.
  static constexpr TileShape kShapes[] = {
      {Large::kRows, Large::kColumns, 128, 2},
      {Small::kRows, Small::kColumns, 36, 4},
  };
  if (choose_tile(p, kShapes, multiprocessors(stream)) == 0) {
    start<Large, kind>(stream, "matmul_fma_128x128", p);
  } else {
    start<Small, kind>(stream, "matmul_fma_64x64", p);
  }
}

}  // namespace

void matmul_fma(Stream stream, const MatmulProblem& p) {
  using Kind = MatmulFinish::Kind;
  if (p.finish.kind == Kind::none) return choose_and_start<FmaKind::plain>(stream, p);
  if (p.finish.kind == Kind::softmax) return choose_and_start<FmaKind::softmax>(stream, p);
  if (p.finish.pairs()) return start<Small, FmaKind::pairs>(stream, "matmul_fma_64x64", p);
  start<Small, FmaKind::finish>(stream, "matmul_fma_64x64", p);
}

}  // namespace engine::kernels::ENGINE_GPU
