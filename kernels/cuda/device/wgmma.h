// wgmma (sm_90a): the matrix unit of a warpgroup, 4 warps starting at a multiple of 4. It computes
// D[64, N] = A[64, 16] · B[16, N] (+ D) in bf16 with fp32 sums while the threads go on.
//
//   warpgroup_fence();                         // registers are written, tiles are visible
//   for (k16 ...) wgmma<N, ...>(d, a_tile, b_tile, accumulate);
//   warpgroup_commit();
//   warpgroup_wait<0>();                       // d may be read, the tiles may be overwritten
//
// All 128 threads do the same, in uniform control flow; d is an array that is indexed by constants
// only and not touched between the first wgmma and the wait that covers the last.
//
// --- Fragments: lane l of warp w of the warpgroup, g = l / 4, t = l % 4
//   D [64, N]    register 4j + q:  row 16w + g + 8 (q >> 1),  column 8j + 2t + (q & 1)
//   A [64, 16] in registers, register r, half h:  row 16w + g + 8 (r & 1),  k 2t + h + 8 (r >> 1)
// So accumulators 8k .. 8k + 7, packed in pairs to bf16, are the A registers of k16 step k.
//
// --- Tiles in shared memory: 128-byte swizzle (tma.h), starting at multiples of 1024 bytes, as TMA
// writes boxes that are 64 elements wide:
//   K-major ("not transposed"): rows of 64 k. A tile of R rows is one box {64 k, R}, R * 128 bytes.
//   MN-major ("transposed"): rows of 64 m (or n), one for each k. A tile is a panel, box {64 m, 64
//   k}, 8192 bytes, for each 64 of m or n, one after the other.
// A tile has 64 k: four steps of 16. In both layouts 64 m (or n) by 64 k are 8192 bytes.
//
// --- Matrix descriptors (64 bits): [0,14) address / 16, [16,30) leading offset / 16, [32,46)
// stride offset / 16, [49,52) base offset, 0 for tiles at multiples of 1024, [62,64) 1 = 128-byte
// swizzle. The address of element (mn, k < 16), before the swizzle, which acts on absolute
// addresses:
//   K-major:   address + mn / 8 * stride + mn % 8 * 128 + 2k          stride = 1024 (eight rows)
//   MN-major:  address + mn / 64 * leading + mn % 64 * 2 + k / 8 * stride + k % 8 * 128
//              leading = bytes from panel to panel, stride = 1024
// The next step of 16 k is 32 bytes further (K-major), or 16 rows, 2048 bytes (MN-major).
#pragma once

#include "kernels/cuda/device/tma.h"
#if !ENGINE_ON_GPU
#include "kernels/simt/wgmma.h"
#endif

namespace engine::kernels::ENGINE_GPU {

inline constexpr int kWarpgroup = 128;

// --- Descriptors -------------------------------------------------------------------------------

enum class Major : uint8_t { k, mn };

// A tile in shared memory, from some step of 16 k on.
template <Major major>
struct MatrixTile {
  uint64_t descriptor = 0;

  // `panel_bytes`: between the 64-wide panels of an MN-major tile.
  ENGINE_DEVICE explicit MatrixTile(Shared<BFloat16> start, int panel_bytes = 8192)
      : descriptor((static_cast<uint64_t>(shared_address(start) & 0x3ffffu) >> 4) |
                   static_cast<uint64_t>(major == Major::k ? 1 : panel_bytes / 16) << 16 |
                   uint64_t{1024 / 16} << 32 | uint64_t{1} << 62) {}
  // The part from `elements` k (a multiple of 16, in the same tile) on.
  ENGINE_DEVICE MatrixTile at_k(int elements) const {
    MatrixTile tile = *this;
    tile.descriptor += static_cast<uint64_t>(elements / 16 * (major == Major::k ? 2 : 128));
    return tile;
  }
};

// --- Order -------------------------------------------------------------------------------------

// Before the first wgmma, and again after registers that the next one uses were read or written.
ENGINE_DEVICE void warpgroup_fence() {
#if ENGINE_ON_GPU
  asm volatile("wgmma.fence.sync.aligned;" : : : "memory");
#else
  fence_wgmma();
#endif
}
ENGINE_DEVICE void warpgroup_commit() {
#if ENGINE_ON_GPU
  asm volatile("wgmma.commit_group.sync.aligned;" : : : "memory");
#else
  commit_wgmma();
#endif
}
// Until at most `groups` committed groups are unfinished.
template <int groups>
ENGINE_DEVICE void warpgroup_wait() {
#if ENGINE_ON_GPU
  asm volatile("wgmma.wait_group.sync.aligned %0;" : : "n"(groups) : "memory");
#else
  wait_wgmma(groups);
#endif
}

// --- wgmma -------------------------------------------------------------------------------------

#if ENGINE_ON_GPU
namespace detail {

// Operand numbers of 32, 64, 96 and 128 accumulators.
#define ENGINE_WGMMA_D32                     \
  "%0, %1, %2, %3, %4, %5, %6, %7"           \
  ", %8, %9, %10, %11, %12, %13, %14, %15"   \
  ", %16, %17, %18, %19, %20, %21, %22, %23" \
  ", %24, %25, %26, %27, %28, %29, %30, %31"
#define ENGINE_WGMMA_D64                     \
  ENGINE_WGMMA_D32                           \
  ", %32, %33, %34, %35, %36, %37, %38, %39" \
  ", %40, %41, %42, %43, %44, %45, %46, %47" \
  ", %48, %49, %50, %51, %52, %53, %54, %55" \
  ", %56, %57, %58, %59, %60, %61, %62, %63"
#define ENGINE_WGMMA_D96                     \
  ENGINE_WGMMA_D64                           \
  ", %64, %65, %66, %67, %68, %69, %70, %71" \
  ", %72, %73, %74, %75, %76, %77, %78, %79" \
  ", %80, %81, %82, %83, %84, %85, %86, %87" \
  ", %88, %89, %90, %91, %92, %93, %94, %95"
#define ENGINE_WGMMA_D128                            \
  ENGINE_WGMMA_D96                                   \
  ", %96, %97, %98, %99, %100, %101, %102, %103"     \
  ", %104, %105, %106, %107, %108, %109, %110, %111" \
  ", %112, %113, %114, %115, %116, %117, %118, %119" \
  ", %120, %121, %122, %123, %124, %125, %126, %127"
// The accumulators as operands.
#define ENGINE_WGMMA_8(i)                                                                     \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define ENGINE_WGMMA_32(i) \
  ENGINE_WGMMA_8(i), ENGINE_WGMMA_8(i + 8), ENGINE_WGMMA_8(i + 16), ENGINE_WGMMA_8(i + 24)
#define ENGINE_WGMMA_O32 ENGINE_WGMMA_32(0)
#define ENGINE_WGMMA_O64 ENGINE_WGMMA_O32, ENGINE_WGMMA_32(32)
#define ENGINE_WGMMA_O96 ENGINE_WGMMA_O64, ENGINE_WGMMA_32(64)
#define ENGINE_WGMMA_O128 ENGINE_WGMMA_O96, ENGINE_WGMMA_32(96)

template <int N>
struct Wgmma;

// One N: operands 0 .. count-1 are D; then A (one descriptor or four registers), B, the flag, and
// which of the tiles are MN-major.
// clang-format off
#define ENGINE_WGMMA(n, count, p1, p2, p3, p4, p5, p6, p7)                                        \
  template <>                                                                                     \
  struct Wgmma<n> {                                                                               \
    template <int mn_a, int mn_b>                                                                 \
    ENGINE_DEVICE static void shared(float (&d)[count], uint64_t a, uint64_t b, int accumulate) { \
      asm volatile(                                                                               \
          "{\n"                                                                                   \
          ".reg .pred p;\n"                                                                       \
          "setp.ne.b32 p, %" #p3 ", 0;\n"                                                         \
          "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 "                             \
          "{" ENGINE_WGMMA_D##count "}, %" #p1 ", %" #p2 ", p, 1, 1, %" #p4 ", %" #p5 ";\n"        \
          "}"                                                                                     \
          : ENGINE_WGMMA_O##count                                                                 \
          : "l"(a), "l"(b), "r"(accumulate), "n"(mn_a), "n"(mn_b));                               \
    }                                                                                             \
    template <int mn_b>                                                                           \
    ENGINE_DEVICE static void registers(float (&d)[count], uint32_t a0, uint32_t a1, uint32_t a2, \
                                        uint32_t a3, uint64_t b, int accumulate) {                \
      asm volatile(                                                                               \
          "{\n"                                                                                   \
          ".reg .pred p;\n"                                                                       \
          "setp.ne.b32 p, %" #p6 ", 0;\n"                                                         \
          "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 "                             \
          "{" ENGINE_WGMMA_D##count "}, {%" #p1 ", %" #p2 ", %" #p3 ", %" #p4 "}, "               \
          "%" #p5 ", p, 1, 1, %" #p7 ";\n"                                                        \
          "}"                                                                                     \
          : ENGINE_WGMMA_O##count                                                                 \
          : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(accumulate), "n"(mn_b));              \
    }                                                                                             \
  };
// clang-format on
ENGINE_WGMMA(64, 32, 32, 33, 34, 35, 36, 37, 38)
ENGINE_WGMMA(128, 64, 64, 65, 66, 67, 68, 69, 70)
ENGINE_WGMMA(192, 96, 96, 97, 98, 99, 100, 101, 102)
ENGINE_WGMMA(256, 128, 128, 129, 130, 131, 132, 133, 134)

}  // namespace detail
#endif

// D (+)= A · B with both tiles in shared memory.
template <int N, Major major_a, Major major_b>
ENGINE_DEVICE void wgmma(float (&d)[N / 2], MatrixTile<major_a> a, MatrixTile<major_b> b,
                         bool accumulate) {
  static_assert(N == 64 || N == 128 || N == 192 || N == 256);
#if ENGINE_ON_GPU
  detail::Wgmma<N>::template shared<major_a == Major::mn, major_b == Major::mn>(
      d, a.descriptor, b.descriptor, accumulate);
#else
  issue_wgmma(d, nullptr, a.descriptor, b.descriptor, accumulate,
              {N, major_a == Major::mn, major_b == Major::mn});
#endif
}
// The same with A in registers, which must not change before the wait either.
template <int N, Major major_b>
ENGINE_DEVICE void wgmma(float (&d)[N / 2], const uint32_t (&a)[4], MatrixTile<major_b> b,
                         bool accumulate) {
  static_assert(N == 64 || N == 128 || N == 192 || N == 256);
#if ENGINE_ON_GPU
  detail::Wgmma<N>::template registers<major_b == Major::mn>(d, a[0], a[1], a[2], a[3],
                                                             b.descriptor, accumulate);
#else
  issue_wgmma(d, a, 0, b.descriptor, accumulate, {N, false, major_b == Major::mn});
#endif
}

}  // namespace engine::kernels::ENGINE_GPU
