// A matrix product as the kernels of this folder take it.
//
// Every element of D is the sum over k in ascending order, in one accumulator, whatever the tile.
// Only with a workspace k may be cut into parts, as many as this GPU's multiprocessors ask for.
#pragma once

#include "kernels/api/matmul.h"
#include "kernels/cuda/device/four.h"

namespace engine::kernels::ENGINE_GPU {

// A dimension whose extent only the device knows, such as the number of rows that have a target:
//   extent = clamp(*count - first, 0, the size in Matmul)
// The grid is for the whole size; tiles beyond the extent end at once, and loops over k stop there.
struct DeviceExtent {
  enum class Of : uint8_t { none, m, k };
  Of of = Of::none;
  int32_t first = 0;
  const int32_t* count = nullptr;  // on the device
};

// The operation of the contract, within `extent`: rows of D from an extent of m on stay as they
// are, and an extent of k = 0 is k = 0.
void matmul_within(Stream stream, const Matmul& arguments, const DeviceExtent& extent);

struct SoftmaxPart;
// The same without an epilogue, D in fp32; and for every 32 logits of a row, times `scale`, its
// part of the softmax: part c of row r at parts[r * part_stride + c].
struct SoftmaxParts {
  SoftmaxPart* parts;
  int64_t part_stride;
  float scale;
};
void matmul_within(Stream stream, const Matmul& arguments, const DeviceExtent& extent,
                   const SoftmaxParts& softmax);

// What happens to the sums (and bias) in kernels that finish: the epilogues of the contract, and
// what the cross-entropy wants to know of its logits.
struct MatmulFinish {
  enum class Kind : uint8_t {
    none,
    add,
    activation,
    activation_gradient,
    softmax,  // D = P, fp32, and a SoftmaxPart for every 32 columns of a row
  };
  Kind kind = Kind::none;
  // the epilogue's; `wide`: P is bf16, and residual and D are fp32
  Activation activation = Activation::gelu_tanh;
  bool gated = false, wide = false;
  bool vectors = false;  // rows of residual, or halves of rows of x, start on 16-byte boundaries
  const void* residual = nullptr;
  void* x = nullptr;  // null: P is not kept
  // softmax: part c of row r at r * part_stride + c; of logits times `scale`
  struct SoftmaxPart* parts = nullptr;
  int64_t part_stride = 0;
  float scale = 1.0f;

  // Gate and up are columns of the product that meet in the epilogue: a tile has as many of each.
  constexpr bool pairs() const { return kind == Kind::activation && gated; }
};

// Of 32 neighbouring logits of a row: the largest, and Σ exp(z - largest). Logits of -infinity have
// no share; where there are no others, largest is the lowest finite number.
struct SoftmaxPart {
  float largest, sum;
};
inline constexpr int kSoftmaxPartColumns = 32;

// The arguments of a kernel. Sizes fit 32 bits, strides need not.
struct MatmulProblem {
  const void* a;
  const void* b;
  const void* bias;
  void* d;
  int m, n, k;
  int64_t lda, ldb, ldd;
  bool transpose_a, transpose_b, accumulate;
  bool output_bf16;                      // P is rounded to bf16
  bool vectors_a, vectors_b, vectors_d;  // rows start on 16-byte boundaries
  DeviceExtent extent;
  MatmulFinish finish;
  // Part i of k, `part_k` long (a multiple of 64), goes to d + i * part_stride.
  int parts = 1, part_k = INT32_MAX;
  int64_t part_stride = 0;
};

// Adds up what `split` computed, in order, and finishes `whole`: parts.cu.
void matmul_sum_parts(Stream stream, const MatmulProblem& whole, const MatmulProblem& split,
                      DType input);

// bf16 on tensor cores (mma.cu); fp32 there as TF32 (mma_tf32.cu), rows on 16-byte boundaries only;
// and fp32 on the arithmetic units (fma.cu).
void matmul_mma(Stream stream, const MatmulProblem& problem);
void matmul_tf32(Stream stream, const MatmulProblem& problem);
void matmul_fma(Stream stream, const MatmulProblem& problem);
// bf16 on Hopper (wgmma.cu, or wgmma_absent.cu in builds without it). False, and nothing done, for
// what it does not take: rows that do not start on 16-byte boundaries, sizes under 64, both
// operands transposed, accumulating into bf16, halves of gate and up that are no multiple of 64,
// other GPUs.
bool matmul_wgmma(Stream stream, const MatmulProblem& problem);

struct TileShape {
  int rows, columns;    // of D
  double cycles_per_k;  // of a multiprocessor, for one step of k of one tile
  int blocks_per_multiprocessor;
};
// The tile that takes least time by a model of the multiprocessor; the first of equals.
template <size_t N>
int choose_tile(const MatmulProblem& p, const TileShape (&shapes)[N], int multiprocessors) {
  int best = 0;
  double least = 0;
  for (int i = 0; i < static_cast<int>(N); ++i) {
    const TileShape& s = shapes[i];
    const int64_t tiles =
        p.parts * ceil_div<int64_t>(p.m, s.rows) * ceil_div<int64_t>(p.n, s.columns);
    const int k = p.k < p.part_k ? p.k : p.part_k;
    // Blocks that share a multiprocessor share its units: only the number of tiles per
    // multiprocessor counts. 32 bytes of D per cycle; 1500 cycles until the first tile of k is
    // there, hidden where blocks share.
    const double epilogue =
        s.rows * s.columns * (p.output_bf16 ? 2.0 : 4.0) * (p.accumulate ? 2.0 : 1.0) / 32.0;
    const double cycles = static_cast<double>(ceil_div<int64_t>(tiles, multiprocessors)) *
                              (k * s.cycles_per_k + epilogue) +
                          static_cast<double>(ceil_div<int64_t>(
                              tiles, int64_t{multiprocessors} * s.blocks_per_multiprocessor)) *
                              1500.0;
    if (i == 0 || cycles < least) {
      best = i;
      least = cycles;
    }
  }
  return best;
}

// --- In kernels --------------------------------------------------------------------------------

// min(max(x, 0), limit)
ENGINE_DEVICE int clamp_to(int x, int limit) {
  return x < 0 ? 0 : x < limit ? x : limit;
}

struct MatmulSizes {
  int m, n, k;  // n: of the gate alone, where pairs() of columns meet
};
ENGINE_DEVICE MatmulSizes sizes_within(const MatmulProblem& p) {
  MatmulSizes sizes{p.m, p.finish.pairs() ? p.n / 2 : p.n, p.k};
  if (p.extent.of != DeviceExtent::Of::none) {
    const int extent = load(p.extent.count) - p.extent.first;
    if (p.extent.of == DeviceExtent::Of::m) {
      sizes.m = clamp_to(extent, p.m);
    } else {
      sizes.k = clamp_to(extent, p.k);
    }
  }
  return sizes;
}

// The part of k that a block works on: from `first` on, `k` of them.
struct DepthRange {
  int part, first, k;
};
ENGINE_DEVICE DepthRange depth_range(const MatmulProblem& p, const MatmulSizes& sizes, int part) {
  const int first = part == 0 ? 0 : part * p.part_k;
  return {part, first, clamp_to(sizes.k - first, p.part_k)};
}

// Which tile of D a block computes. Bands of 8 rows of tiles, column by column: the blocks that run
// at one time read few rows of A and few of B, which stay in L2.
struct TilePosition {
  int row, column;  // of tiles
};
ENGINE_DEVICE TilePosition tile_position(int block, int tile_rows, int tile_columns) {
  constexpr int kBand = 8;
  const int band = block / (kBand * tile_columns), within = block % (kBand * tile_columns);
  const int rest = tile_rows - band * kBand, height = rest < kBand ? rest : kBand;
  return {band * kBand + within % height, within / height};
}

// What one block of a grid of tiles and parts computes.
struct BlockWork {
  TilePosition tile;
  DepthRange depths;
};
ENGINE_DEVICE BlockWork block_work(const MatmulProblem& p, const MatmulSizes& sizes, int block,
                                   int tile_rows, int tile_columns) {
  const int part = p.parts == 1 ? 0 : block / (tile_rows * tile_columns);
  return {tile_position(block - part * tile_rows * tile_columns, tile_rows, tile_columns),
          depth_range(p, sizes, part)};
}

template <int N, typename T>
ENGINE_DEVICE void load_bias(float (&values)[N], const void* bias, int column, int n) {
#pragma unroll
  for (int j = 0; j < N; ++j) {
    values[j] =
        bias && column + j < n ? to_float(load(static_cast<const T*>(bias) + column + j)) : 0.0f;
  }
}

}  // namespace engine::kernels::ENGINE_GPU
