// Tiles of operands in shared memory: how they get there, and how a warp reads the fragments of
// mma.m16n8k16 (bf16) or mma.m16n8k8 (tf32, from fp32) from them.
//
// An operand is [mn, k]: rows of A or columns of B, against k. It lies in device memory either with
// k contiguous (A as stored, B transposed) or with mn contiguous (A transposed, B as stored), and
// its tile keeps that order, so nothing is ever transposed by moving it. A tile is 64 bytes deep
// along k, 32 elements of bf16 or 16 of fp32, and an mma takes 32 bytes of them: in bytes both
// types look alike when k is contiguous.
//
//   k contiguous:         [mn][64 bytes];  16-byte chunk c of row r lies at c ^ (r / 2 % 4)
//   mn contiguous, bf16:  [32][mn];        chunk c of row r lies at c ^ (r % 8)
//   mn contiguous, fp32:  [16][mn];        chunk c of row r lies at c ^ (2 (r % 4))
//
// ldmatrix reads fragments from the first two, the second transposed. It cannot transpose 32-bit
// elements: from the third every lane reads its own. With these orders the 8 rows that ldmatrix
// reads at a time lie in different banks, so do the elements that 32 lanes read one by one, and so
// do the 8 chunks that a quarter of a warp writes.
#pragma once

#include "kernels/cuda/device/cp_async.h"
#include "kernels/cuda/device/mma.h"
#include "kernels/cuda/matmul/problem.h"

namespace engine::kernels::ENGINE_GPU {

// Elements along k of a tile, and of an mma.
template <typename Element>
inline constexpr int kTileDepth = 64 / static_cast<int>(sizeof(Element));
template <typename Element>
inline constexpr int kMmaDepth = 32 / static_cast<int>(sizeof(Element));

// How the columns of B that a tile takes lie: side by side; or, for pairs of columns that meet in
// the epilogue, half of them as many columns further on.
struct TileColumns {
  int first, extent;  // the first one, and how many there are (of the gate alone)
  int apart;          // from the first to that of the second half; 0: side by side
};

// One thread's part of copying the tiles of an operand, 16 bytes at a time. Rows start on 16-byte
// boundaries; what lies outside the matrix arrives as 0. Halves: TileColumns may be apart.
template <typename Element, int Extent, bool KContiguous, int Threads, bool Halves = false>
class TileCopy {
 public:
  static constexpr bool kContiguous = KContiguous;

  // Rows or columns of `mn`; k of `depths`.
  ENGINE_DEVICE TileCopy(const void* operand, int64_t stride, const TileColumns& mn,
                         const DepthRange& depths)
      : stride_(stride) {
    const int thread = static_cast<int>(threadIdx.x);
    row_ = thread / kChunks;
    const int chunk = thread % kChunks;
    target_ = row_ * kRowElements + (chunk ^ swizzle(row_)) * kChunk;
    const auto* const base =
        static_cast<const Element*>(operand) + depths.first * (KContiguous ? int64_t{1} : stride);
    const bool apart = Halves && mn.apart != 0;
    if constexpr (KContiguous) {
      source_ = base + (mn.first + row_) * stride + chunk * kChunk;
      rows_left_ = mn.extent - mn.first;
      elements_left_ = depths.k - chunk * kChunk;
      second_rows_left_ = rows_left_ + (apart ? Extent / 2 : 0);
      second_ = apart ? (mn.apart - Extent / 2) * stride : 0;
    } else {
      const bool second = apart && chunk >= kChunks / 2;
      source_ =
          base + row_ * stride + mn.first + chunk * kChunk + (second ? mn.apart - Extent / 2 : 0);
      rows_left_ = depths.k;
      elements_left_ = mn.extent - mn.first - chunk * kChunk + (second ? Extent / 2 : 0);
    }
  }
  // Starts copying the tile at k = `depth`.
  ENGINE_DEVICE void start(Shared<Element> tile, int depth) const {
#pragma unroll
    for (int i = 0; i < kRows / kRowsAtATime; ++i) {
      const bool second = Halves && KContiguous && i * kRowsAtATime >= Extent / 2;
      const int row = row_ + i * kRowsAtATime;
      const Element* from = source_ + (KContiguous ? i * kRowsAtATime * stride_ + depth
                                                   : (depth + i * kRowsAtATime) * stride_);
      if (second) from += second_;
      const int left = KContiguous ? elements_left_ - depth : elements_left_;
      const int rows_left =
          KContiguous ? (second ? second_rows_left_ : rows_left_) : rows_left_ - depth;
      copy_async_16_partial(
          tile + target_ + i * kRowsAtATime * kRowElements, from,
          row < rows_left ? clamp_to(left, kChunk) * static_cast<int>(sizeof(Element)) : 0);
    }
  }

 private:
  static constexpr int kChunk = 16 / static_cast<int>(sizeof(Element));  // elements
  static constexpr int kRows = KContiguous ? Extent : kTileDepth<Element>;
  static constexpr int kRowElements = KContiguous ? kTileDepth<Element> : Extent;
  static constexpr int kChunks = kRowElements / kChunk;
  static constexpr int kRowsAtATime = Threads / kChunks;
  // Rows that a thread copies are all swizzled alike.
  static_assert(kRowsAtATime % (KContiguous || sizeof(Element) == 2 ? 8 : 4) == 0);
  static_assert(kRows % kRowsAtATime == 0);
  static_assert(!Halves || !KContiguous || Extent / 2 % kRowsAtATime == 0);
  ENGINE_DEVICE static int swizzle(int row) {
    if constexpr (KContiguous) return row / 2 % 4;
    return sizeof(Element) == 2 ? row % 8 : row % 4 * 2;
  }

  const Element* source_;
  int64_t stride_;
  int64_t second_ = 0;  // elements further on, for rows of the second half
  int row_, target_, rows_left_, elements_left_, second_rows_left_ = 0;
};

// The same for any strides and any alignment, an element at a time: correct and slow. The tile has
// k contiguous.
template <int Extent, int Threads>
class TileCopyByElement {
 public:
  static constexpr bool kContiguous = true;

  struct Strides {
    int64_t mn, k;
  };
  ENGINE_DEVICE TileCopyByElement(const void* operand, const Strides& strides,
                                  const TileColumns& mn, const DepthRange& depths)
      : source_(static_cast<const BFloat16*>(operand) + mn.first * strides.mn +
                depths.first * strides.k),
        strides_(strides),
        mn_left_(mn.extent - mn.first),
        apart_(mn.apart),
        k_(depths.k) {}
  ENGINE_DEVICE void start(Shared<BFloat16> tile, int depth) const {
    constexpr int kDepth = kTileDepth<BFloat16>;
    const int thread = static_cast<int>(threadIdx.x);
    for (int i = thread; i < Extent * kDepth; i += Threads) {
      // neighbouring threads read neighbouring elements
      const int mn = strides_.k == 1 ? i / kDepth : i % Extent;
      const int k = strides_.k == 1 ? i % kDepth : i / Extent;
      const bool second = apart_ != 0 && mn >= Extent / 2;
      const int within = second ? mn - Extent / 2 : mn;
      const bool inside = within < mn_left_ && depth + k < k_;
      const int64_t offset = (second ? within + apart_ : within) * strides_.mn;
      store(
          tile + mn * kDepth + ((k / 8) ^ (mn / 2 % 4)) * 8 + k % 8,
          inside ? load(source_ + offset + (depth + k) * strides_.k) : from_float<BFloat16>(0.0f));
    }
  }

 private:
  const BFloat16* source_;
  Strides strides_;
  int mn_left_, apart_, k_;
};

// Fragments of 16 (mn) by kMmaDepth of a tile, for the lanes of a warp. As A: r = the registers of
// one fragment. As B: r[0..1] and r[2..3] are two fragments of 8 columns.
template <typename Element, int Extent, bool KContiguous, bool IsA>
class FragmentReader {
 public:
  ENGINE_DEVICE explicit FragmentReader(int first) {  // of the warp, in the tile
    const int lane = lane_index();
    const int mn_half = IsA ? lane / 8 % 2 : lane / 16, k_half = IsA ? lane / 16 : lane / 8 % 2;
    if constexpr (KContiguous) {
      const int row = first + lane % 8 + 8 * mn_half;
      offset_ = row * kTileDepth<Element> + (k_half ^ (row / 2 % 4)) * (kMmaDepth<Element> / 2);
    } else if constexpr (sizeof(Element) == 2) {
      const int row = lane % 8 + 8 * k_half;
      offset_ = row * Extent + ((first / 8 + mn_half) ^ (row % 8)) * 8;
    } else {
      offset_ = lane % 4 * Extent + ((first + lane / 4) ^ (lane % 4 * 8));
    }
  }
  // The fragment at mn = first + 16 i, k = kMmaDepth step.
  ENGINE_DEVICE void read(uint32_t (&r)[4], Shared<Element> tile, int i, int step) const {
    // The swizzle is an exclusive or, so moving by whole chunks is one as well.
    if constexpr (KContiguous) {
      const int offset = (offset_ ^ (step * kMmaDepth<Element>)) + i * 16 * kTileDepth<Element>;
      load_matrix_x4<false>(r, (tile + offset).template as<BFloat16>());
    } else if constexpr (sizeof(Element) == 2) {
      load_matrix_x4<true>(r, tile + ((offset_ ^ (i * 16)) + step * 16 * Extent));
    } else {
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int mn_half = IsA ? q % 2 : q / 2, k_half = IsA ? q / 2 : q % 2;
        const int offset = (offset_ ^ (i * 16 + mn_half * 8)) + (step * 8 + k_half * 4) * Extent;
        r[q] = load((tile + offset).template as<uint32_t>());
      }
    }
    if constexpr (sizeof(Element) == 4) {
#pragma unroll
      for (int q = 0; q < 4; ++q) r[q] = to_tf32(r[q]);
    }
  }

 private:
  int offset_;
};

// D += A · B of fragments.
template <typename Element>
ENGINE_DEVICE void multiply_fragments(float (&d)[4], const uint32_t (&a)[4],
                                      const uint32_t (&b)[2]) {
  if constexpr (sizeof(Element) == 2) {
    mma_bf16(d, a, b);
  } else {
    mma_tf32(d, a, b);
  }
}

}  // namespace engine::kernels::ENGINE_GPU
