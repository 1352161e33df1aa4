// Tiles of bf16 operands in shared memory: how they get there, and how a warp reads fragments of
// mma.m16n8k16 from them.
//
// An operand is [mn, k]: rows of A or columns of B, against k. It lies in device memory either with
// k contiguous (A as stored, B transposed) or with mn contiguous (A transposed, B as stored), and
// its tile keeps that order, so nothing is ever transposed by moving it: ldmatrix reads both.
//
//   k contiguous:   [mn][32], rows of 64 bytes;  16-byte chunk c of row r lies at c ^ (r / 2 % 4)
//   mn contiguous:  [32][mn], rows of 2 mn bytes; chunk c of row r lies at c ^ (r % 8)
//
// With these the 8 rows that ldmatrix reads at a time lie in different banks, and so do the 8
// chunks that a quarter of a warp writes.
#pragma once

#include "kernels/cuda/device/cp_async.h"
#include "kernels/cuda/device/mma.h"
#include "kernels/cuda/matmul/problem.h"

namespace engine::kernels::ENGINE_GPU {

inline constexpr int kDepth = 32;  // of a tile, along k

// One thread's part of copying the tiles of an operand, 16 bytes at a time. Rows start on 16-byte
// boundaries; what lies outside the matrix arrives as 0.
template <int Extent, bool KContiguous, int Threads>
class TileCopy {
 public:
  static constexpr bool kContiguous = KContiguous;

  // Rows or columns from `first` on, of `extent`; k of `depths`.
  ENGINE_DEVICE TileCopy(const void* operand, int64_t stride, int first, int extent,
                         const DepthRange& depths)
      : stride_(stride) {
    const int thread = static_cast<int>(threadIdx.x);
    row_ = thread / kChunks;
    const int chunk = thread % kChunks;
    target_ = row_ * kRowElements + (chunk ^ swizzle(row_)) * 8;
    const auto* const base =
        static_cast<const BFloat16*>(operand) + depths.first * (KContiguous ? int64_t{1} : stride);
    if constexpr (KContiguous) {
      source_ = base + (first + row_) * stride + chunk * 8;
      rows_left_ = extent - first;
      elements_left_ = depths.k - chunk * 8;
    } else {
      source_ = base + row_ * stride + first + chunk * 8;
      rows_left_ = depths.k;
      elements_left_ = extent - first - chunk * 8;
    }
  }
  // Starts copying the tile at k = `depth`.
  ENGINE_DEVICE void start(Shared<BFloat16> tile, int depth) const {
#pragma unroll
    for (int i = 0; i < kRows / kRowsAtATime; ++i) {
      const int row = row_ + i * kRowsAtATime;
      const BFloat16* const from = source_ + (KContiguous ? i * kRowsAtATime * stride_ + depth
                                                          : (depth + i * kRowsAtATime) * stride_);
      const int left = KContiguous ? elements_left_ - depth : elements_left_;
      const bool inside = row < (KContiguous ? rows_left_ : rows_left_ - depth);
      copy_async_16_partial(tile + target_ + i * kRowsAtATime * kRowElements, from,
                            inside ? clamp_to(left, 8) * 2 : 0);
    }
  }

 private:
  static constexpr int kRows = KContiguous ? Extent : kDepth;
  static constexpr int kRowElements = KContiguous ? kDepth : Extent;
  static constexpr int kChunks = kRowElements / 8;
  static constexpr int kRowsAtATime = Threads / kChunks;
  static_assert(kRowsAtATime % 8 == 0 && kRows % kRowsAtATime == 0);
  // kRowsAtATime is a multiple of 8, so all rows of a thread have the same.
  ENGINE_DEVICE static int swizzle(int row) {
    return KContiguous ? row / 2 % 4 : row % 8;
  }

  const BFloat16* source_;
  int64_t stride_;
  int row_, target_, rows_left_, elements_left_;
};

// The same for any strides and any alignment, an element at a time: correct and slow. The tile has
// k contiguous.
template <int Extent, int Threads>
class TileCopyByElement {
 public:
  static constexpr bool kContiguous = true;

  ENGINE_DEVICE TileCopyByElement(const void* operand, int64_t mn_stride, int64_t k_stride,
                                  int first, int extent, const DepthRange& depths)
      : source_(static_cast<const BFloat16*>(operand) + first * mn_stride +
                depths.first * k_stride),
        mn_stride_(mn_stride),
        k_stride_(k_stride),
        mn_left_(extent - first),
        k_(depths.k) {}
  ENGINE_DEVICE void start(Shared<BFloat16> tile, int depth) const {
    const int thread = static_cast<int>(threadIdx.x);
    for (int i = thread; i < Extent * kDepth; i += Threads) {
      // neighbouring threads read neighbouring elements
      const int mn = k_stride_ == 1 ? i / kDepth : i % Extent;
      const int k = k_stride_ == 1 ? i % kDepth : i / Extent;
      const bool inside = mn < mn_left_ && depth + k < k_;
      store(tile + mn * kDepth + ((k / 8) ^ (mn / 2 % 4)) * 8 + k % 8,
            inside ? load(source_ + mn * mn_stride_ + (depth + k) * k_stride_)
                   : from_float<BFloat16>(0.0f));
    }
  }

 private:
  const BFloat16* source_;
  int64_t mn_stride_, k_stride_;
  int mn_left_, k_;
};

// Fragments of 16 (mn) by 16 (k) of a tile, for the lanes of a warp. As A: r = the registers of
// one fragment. As B: r[0..1] and r[2..3] are two fragments of 8 columns.
template <int Extent, bool KContiguous, bool IsA>
class FragmentReader {
 public:
  ENGINE_DEVICE explicit FragmentReader(int first) {  // of the warp, in the tile
    const int lane = lane_index();
    const int mn_half = IsA ? lane / 8 % 2 : lane / 16, k_half = IsA ? lane / 16 : lane / 8 % 2;
    if constexpr (KContiguous) {
      const int row = first + lane % 8 + 8 * mn_half;
      offset_ = row * kDepth + (k_half ^ (row / 2 % 4)) * 8;
    } else {
      const int row = lane % 8 + 8 * k_half;
      offset_ = row * Extent + ((first / 8 + mn_half) ^ (row % 8)) * 8;
    }
  }
  // The fragment at mn = first + 16 i, k = 16 step.
  ENGINE_DEVICE void read(uint32_t (&r)[4], Shared<BFloat16> tile, int i, int step) const {
    // The swizzle is an exclusive or, so moving by whole chunks is one as well.
    const int offset = KContiguous ? (offset_ ^ (step * 16)) + i * 16 * kDepth
                                   : (offset_ ^ (i * 16)) + step * 16 * Extent;
    load_matrix_x4<!KContiguous>(r, tile + offset);
  }

 private:
  int offset_;
};

}  // namespace engine::kernels::ENGINE_GPU
