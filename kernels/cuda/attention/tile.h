// Tiles in shared memory, and the two matrix products of attention between them and registers.
//
// A tile is rows (queries or keys) by kDim columns (head_dim rounded up; zeros beyond). A warp
// works on 16 MT rows; its accumulators are fragments C[MT][NT][4] of mma.m16n8k16 (device/mma.h):
//   C[m][n][q]: row 16 m + g + 8 (q >> 1), column 8 n + 2 t + (q & 1);  g = lane / 4, t = lane % 4
//
//   multiply_by_rows:     C += A · Bᵀ   A, B tiles: scores of queries and keys
//   multiply_by_columns:  C += W · B    W fragments in registers (probabilities), B a tile
//
// bf16: tensor cores; 16-byte chunks are swizzled so that the 8 rows of an ldmatrix matrix lie in
// different banks, and W becomes an A fragment without leaving the registers. Every B fragment is
// used for MT products: with MT = 1 reading shared memory (4 cycles per ldmatrix.x4) takes as long
// as the two products it feeds on an A100, with MT = 2 half of that. fp32: multiply-adds; the same
// fragments, so that everything around them is the same code. Rows are kDim + 4 long, which keeps
// the 16-byte reads of a warp in different banks; W goes through shared memory. 16 multiply-adds or
// more per 16-byte read.
#pragma once

#include "kernels/cuda/device/cp_async.h"
#include "kernels/cuda/device/mma.h"
#include "kernels/cuda/device/warp.h"

namespace engine::kernels::ENGINE_GPU::attention {

template <typename T, int kDim>
struct Layout;

template <int kDim>
struct Layout<BFloat16, kDim> {
  static constexpr int kStride = kDim, kChunk = 8, kChunks = kDim / kChunk;
  // Rows of 64 or 192 bytes: two of them begin at the same bank, not all.
  static ENGINE_DEVICE int swizzle(int row) { return kDim % 64 == 0 ? row & 7 : (row >> 1) & 3; }
  static ENGINE_DEVICE int offset(int row, int chunk) {
    return row * kStride + ((chunk ^ swizzle(row)) * kChunk);
  }
  // The same for chunk = even + odd, even known to the compiler and odd 0 or 1: the parts of the
  // sum that lanes differ in take few values, so that unrolled loops keep few addresses.
  static ENGINE_DEVICE int offset(int row, int even, int odd) {
    constexpr int kMask = kDim % 64 == 0 ? 7 : 3;
    return row * kStride + ((odd ^ swizzle(row)) ^ (even & kMask)) * kChunk +
           (even & ~kMask) * kChunk;
  }
};
template <int kDim>
struct Layout<float, kDim> {
  static constexpr int kStride = kDim + 4, kChunk = 4, kChunks = kDim / kChunk;
  static ENGINE_DEVICE int offset(int row, int chunk) { return row * kStride + chunk * kChunk; }
};
template <typename T, int kDim>
constexpr int tile_size(int rows) {
  return rows * Layout<T, kDim>::kStride;
}

// Loads `kRows` rows; row_address(r) is where row r begins. Rows that are not `row_exists(r)` and
// columns from head_dim on become zeros. Asynchronous when `aligned`; commit and wait in any case.
template <typename T, int kDim, int kRows, int kThreads, typename Exists, typename Address>
ENGINE_DEVICE void load_tile(Shared<T> tile, int thread, int head_dim, bool aligned,
                             const Exists& row_exists, const Address& row_address) {
  using L = Layout<T, kDim>;
  constexpr int kItems = kRows * L::kChunks;
  if (aligned) {
#pragma unroll 1
    for (int i = 0; i < ceil_div(kItems, kThreads); ++i) {
      const int item = thread + i * kThreads;
      if (kItems % kThreads != 0 && item >= kItems) break;
      const int row = item / L::kChunks, chunk = item % L::kChunks;
      const bool exists = row_exists(row) && chunk * L::kChunk < head_dim;
      copy_async_16(tile + L::offset(row, chunk), row_address(row) + chunk * L::kChunk, exists);
    }
  } else {
#pragma unroll 1
    for (int item = thread; item < kItems; item += kThreads) {
      const int row = item / L::kChunks, chunk = item % L::kChunks;
      const bool exists = row_exists(row);
      const T* const from = row_address(row) + chunk * L::kChunk;
      Vector<T, L::kChunk> values;
#pragma unroll
      for (int j = 0; j < L::kChunk; ++j) {
        values[j] = exists && chunk * L::kChunk + j < head_dim ? load(from + j) : T{};
      }
      store_vector(tile + L::offset(row, chunk), values);
    }
  }
}

// The rows from `first` on, `stride` apart, of which `count` exist.
template <typename T, int kDim, int kRows, int kThreads>
ENGINE_DEVICE void load_rows(Shared<T> tile, int thread, int head_dim, bool aligned, const T* first,
                             int64_t stride, int count) {
  load_tile<T, kDim, kRows, kThreads>(
      tile, thread, head_dim, aligned, [count](int row) { return row < count; },
      [first, stride](int row) { return first + row * stride; });
}

// --- C += A · Bᵀ -------------------------------------------------------------------------------

template <int kDim, int MT, int NT>
ENGINE_DEVICE void multiply_by_rows(float (&c)[MT][NT][4], Shared<BFloat16> a, int a_row,
                                    Shared<BFloat16> b) {
  using L = Layout<BFloat16, kDim>;
  const int lane = lane_index();
#pragma unroll(kDim < 128 ? kDim / 16 : kDim == 128 ? 4 : 2)
  for (int k = 0; k < kDim / 16; ++k) {
    uint32_t a_fragment[MT][4];
#pragma unroll
    for (int m = 0; m < MT; ++m) {
      load_matrix_x4(a_fragment[m], a + L::offset(a_row + 16 * m + (lane & 15), 2 * k, lane >> 4));
    }
#pragma unroll
    for (int n = 0; n < NT / 2; ++n) {
      uint32_t both[4];
      load_matrix_x4(both,
                     b + L::offset(16 * n + (lane & 7) + 8 * (lane >> 4), 2 * k, (lane >> 3) & 1));
      const uint32_t low[2] = {both[0], both[1]}, high[2] = {both[2], both[3]};
#pragma unroll
      for (int m = 0; m < MT; ++m) {
        mma_bf16(c[m][2 * n], a_fragment[m], low);
        mma_bf16(c[m][2 * n + 1], a_fragment[m], high);
      }
    }
  }
}

template <int kDim, int MT, int NT>
ENGINE_DEVICE void multiply_by_rows(float (&c)[MT][NT][4], Shared<float> a, int a_row,
                                    Shared<float> b) {
  static_assert(MT == 1);
  using L = Layout<float, kDim>;
  const int g = lane_index() / 4, t = lane_index() % 4;
#pragma unroll 2
  for (int k = 0; k < L::kChunks; ++k) {
    const auto a0 = load_vector<4>(a + L::offset(a_row + g, k));
    const auto a1 = load_vector<4>(a + L::offset(a_row + g + 8, k));
#pragma unroll
    for (int n = 0; n < NT; ++n) {
#pragma unroll
      for (int column = 0; column < 2; ++column) {
        const auto b0 = load_vector<4>(b + L::offset(8 * n + 2 * t + column, k));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          c[0][n][column] += a0[i] * b0[i];
          c[0][n][2 + column] += a1[i] * b0[i];
        }
      }
    }
  }
}

// --- C += W · B --------------------------------------------------------------------------------

// fp32 weights of a warp on their way through shared memory: 16 rows of `columns` values.
constexpr int weight_stride(int columns) {
  return columns + 4;
}
template <typename T>
constexpr int weights_size(int warps, int columns) {
  return sizeof(T) == 4 ? warps * 16 * weight_stride(columns) : 0;
}

template <int kDim, int MT, int KT>
ENGINE_DEVICE void multiply_by_columns(float (&c)[MT][kDim / 8][4], const float (&w)[MT][KT][4],
                                       Shared<BFloat16> b, Shared<float>) {
  using L = Layout<BFloat16, kDim>;
  const int lane = lane_index();
#pragma unroll
  for (int k = 0; k < KT / 2; ++k) {
    uint32_t a[MT][4];
#pragma unroll
    for (int m = 0; m < MT; ++m) {
      a[m][0] = pack_bf16(w[m][2 * k][0], w[m][2 * k][1]);
      a[m][1] = pack_bf16(w[m][2 * k][2], w[m][2 * k][3]);
      a[m][2] = pack_bf16(w[m][2 * k + 1][0], w[m][2 * k + 1][1]);
      a[m][3] = pack_bf16(w[m][2 * k + 1][2], w[m][2 * k + 1][3]);
    }
#pragma unroll
    for (int n = 0; n < kDim / 16; ++n) {
      uint32_t both[4];
      load_matrix_x4<true>(both, b + L::offset(16 * k + (lane & 15), 2 * n, lane >> 4));
      const uint32_t low[2] = {both[0], both[1]}, high[2] = {both[2], both[3]};
#pragma unroll
      for (int m = 0; m < MT; ++m) {
        mma_bf16(c[m][2 * n], a[m], low);
        mma_bf16(c[m][2 * n + 1], a[m], high);
      }
    }
  }
}

// `scratch`: the warp's own weights_size(1, 8 KT) floats.
template <int kDim, int MT, int KT>
ENGINE_DEVICE void multiply_by_columns(float (&c)[MT][kDim / 8][4], const float (&w)[MT][KT][4],
                                       Shared<float> b, Shared<float> scratch) {
  static_assert(MT == 1);
  using L = Layout<float, kDim>;
  constexpr int kStride = weight_stride(8 * KT);
  const int g = lane_index() / 4, t = lane_index() % 4;
  sync_warp();  // the weights before these have been read
#pragma unroll
  for (int n = 0; n < KT; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Vector<float, 2> pair;
      pair[0] = w[0][n][2 * half];
      pair[1] = w[0][n][2 * half + 1];
      store_vector(scratch + (g + 8 * half) * kStride + 8 * n + 2 * t, pair);
    }
  }
  sync_warp();
#pragma unroll 1
  for (int k = 0; k < 8 * KT; k += 4) {
    const auto w0 = load_vector<4>(scratch + g * kStride + k);
    const auto w1 = load_vector<4>(scratch + (g + 8) * kStride + k);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        const auto b0 = load_vector<2>(b + (k + i) * L::kStride + 8 * n + 2 * t);
        c[0][n][0] += w0[i] * b0[0];
        c[0][n][1] += w0[i] * b0[1];
        c[0][n][2] += w1[i] * b0[0];
        c[0][n][3] += w1[i] * b0[1];
      }
    }
  }
}

// --- Accumulators ------------------------------------------------------------------------------

template <int MT, int NT>
ENGINE_DEVICE void clear(float (&c)[MT][NT][4]) {
#pragma unroll
  for (int m = 0; m < MT; ++m) {
#pragma unroll
    for (int n = 0; n < NT; ++n) {
#pragma unroll
      for (int q = 0; q < 4; ++q) c[m][n][q] = 0.0f;
    }
  }
}

// Writes the warp's rows, times factor[m][half], to device memory: through its rows of `tile`
// (16-byte stores) when the target is aligned. Row r goes to row_address(r) if row_exists(r). The
// warp itself must be done with these rows of the tile, which no other warp may read.
template <typename T, int kDim, int MT, typename Exists, typename Address>
ENGINE_DEVICE void store_rows(const float (&c)[MT][kDim / 8][4], const float (&factor)[MT][2],
                              Shared<T> tile, int first_row, int head_dim, bool aligned,
                              const Exists& row_exists, const Address& row_address) {
  using L = Layout<T, kDim>;
  const int lane = lane_index(), g = lane / 4, t = lane % 4;
  sync_warp();
#pragma unroll
  for (int m = 0; m < MT; ++m) {
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first_row + 16 * m + g + 8 * half;
        Vector<T, 2> pair;
        const float x = c[m][n][2 * half] * factor[m][half];
        const float y = c[m][n][2 * half + 1] * factor[m][half];
        if constexpr (sizeof(T) == 2) {
          const uint32_t packed = pack_bf16(x, y);
          pair[0].bits = static_cast<uint16_t>(packed);
          pair[1].bits = static_cast<uint16_t>(packed >> 16);
        } else {
          pair[0] = x;
          pair[1] = y;
        }
        const int column = 8 * n + 2 * t;
        store_vector(tile + L::offset(row, column / L::kChunk) + column % L::kChunk, pair);
      }
    }
  }
  sync_warp();
  constexpr int kItems = 16 * MT * L::kChunks;
#pragma unroll 4
  for (int item = lane; item < kItems; item += kWarp) {
    const int row = first_row + item / L::kChunks, chunk = item % L::kChunks;
    if (!row_exists(row) || chunk * L::kChunk >= head_dim) continue;
    const auto values = load_vector<L::kChunk>(tile + L::offset(row, chunk));
    T* const to = row_address(row) + chunk * L::kChunk;
    if (aligned) {
      store_vector(to, values);
    } else {
#pragma unroll
      for (int j = 0; j < L::kChunk; ++j) {
        if (chunk * L::kChunk + j < head_dim) store(to + j, values[j]);
      }
    }
  }
}

}  // namespace engine::kernels::ENGINE_GPU::attention
