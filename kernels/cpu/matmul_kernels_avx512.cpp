// Matmul kernels for AVX-512, AVX512-BF16 and AMX-BF16. Compiled for those instruction sets
// whatever the build's own is; called only where instruction_set() found them.
#include "kernels/cpu/matmul_kernels.h"

#include <type_traits>

#if defined(__x86_64__)

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own intrinsics, by design
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")
#include <immintrin.h>

namespace engine::kernels::cpu {
namespace {

constexpr int64_t kLanes = 16;  // 32-bit words in a register

int64_t at_most(int64_t value, int64_t most) {
  return value < most ? value : most;
}

__mmask16 first16(int64_t count) {
  return count >= 16 ? __mmask16(0xffff) : __mmask16((1u << (count < 0 ? 0 : count)) - 1u);
}

__mmask32 first32(int64_t count) {
  return count >= 32 ? __mmask32(0xffffffffu)
                     : __mmask32((uint64_t{1} << (count < 0 ? 0 : count)) - 1u);
}

// Rows become columns: 16 x 16 words.
inline __attribute__((always_inline)) void transpose(__m512i r[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  // r[4g + c] holds, in 128-bit lane l, column 4l + c of rows 4g .. 4g + 3.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i lo01 = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x44);
    const __m512i hi01 = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xee);
    const __m512i lo23 = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x44);
    const __m512i hi23 = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xee);
    t[c] = _mm512_shuffle_i32x4(lo01, lo23, 0x88);
    t[4 + c] = _mm512_shuffle_i32x4(lo01, lo23, 0xdd);
    t[8 + c] = _mm512_shuffle_i32x4(hi01, hi23, 0x88);
    t[12 + c] = _mm512_shuffle_i32x4(hi01, hi23, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = t[i];
}

// How a strip is read as words.
struct Float32Words {
  static constexpr int64_t kPerWord = 1;
  // Up to 16 words of strip row i from value p on.
  static __m512i along_k(const Strip& s, int64_t i, int64_t p) {
    const auto* x = static_cast<const float*>(s.data) + i * s.stride + p;
    return _mm512_maskz_loadu_epi32(first16(s.k - p), x);
  }
  // Word of values p.. of up to 16 strip rows from i on.
  template <typename Whole = std::false_type>  // whole: 16 rows exist
  static __m512i across(const Strip& s, int64_t i, int64_t p, Whole whole = {}) {
    const auto* x = static_cast<const float*>(s.data) + p * s.stride + i;
    if constexpr (whole) return _mm512_loadu_si512(x);
    return _mm512_maskz_loadu_epi32(first16(s.width - i), x);
  }
};

struct BFloat16Words {
  static constexpr int64_t kPerWord = 2;
  static __m256i load16(const BFloat16* x) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  }
  static __m512i along_k(const Strip& s, int64_t i, int64_t p) {
    const auto* x = static_cast<const BFloat16*>(s.data) + i * s.stride + p;
    return _mm512_maskz_loadu_epi16(first32(s.k - p), x);
  }
  template <typename Whole = std::false_type>  // whole: 16 rows and two values exist
  static __m512i across(const Strip& s, int64_t i, int64_t p, Whole whole = {}) {
    const auto* x = static_cast<const BFloat16*>(s.data) + p * s.stride + i;
    if constexpr (whole) {
      const __m512i even = _mm512_cvtepu16_epi32(load16(x));
      const __m512i odd = _mm512_cvtepu16_epi32(load16(x + s.stride));
      return _mm512_or_si512(even, _mm512_slli_epi32(odd, 16));
    }
    const __mmask16 mask = first16(s.width - i);
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, x));
    if (p + 1 >= s.k) return low;
    const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, x + s.stride));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
  }
};

// bf16 read as fp32, for processors without bf16 arithmetic.
struct WidenedWords {
  static constexpr int64_t kPerWord = 1;
  static __m512i widen(__mmask16 mask, const BFloat16* x) {
    return _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, x)), 16);
  }
  static __m512i along_k(const Strip& s, int64_t i, int64_t p) {
    return widen(first16(s.k - p), static_cast<const BFloat16*>(s.data) + i * s.stride + p);
  }
  template <typename Whole = std::false_type>
  static __m512i across(const Strip& s, int64_t i, int64_t p, Whole = {}) {
    return widen(first16(s.width - i), static_cast<const BFloat16*>(s.data) + p * s.stride + i);
  }
};

// Layout [word][kWidth]; words padded to a multiple of kWordUnit.
template <typename Words, int kWidth, int kWordUnit>
void pack_word_major(const Strip& s, void* to) {
  auto* out = static_cast<uint32_t*>(to);
  int64_t words = (s.k + Words::kPerWord - 1) / Words::kPerWord;
  words = (words + kWordUnit - 1) / kWordUnit * kWordUnit;
  for (int64_t w = 0; w < words; w += kLanes) {
    const int64_t count = at_most(words - w, kLanes);
    for (int64_t i = 0; i < kWidth; i += kLanes) {
      __m512i block[kLanes];
      // Whole blocks are told apart so that they stay in registers.
      if (s.k_contiguous) {
        if (i + kLanes <= s.width) {
#pragma GCC unroll 16
          for (int64_t t = 0; t < kLanes; ++t) {
            block[t] = Words::along_k(s, i + t, w * Words::kPerWord);
          }
        } else {
          for (int64_t t = 0; t < kLanes; ++t) {
            block[t] = i + t < s.width ? Words::along_k(s, i + t, w * Words::kPerWord)
                                       : _mm512_setzero_si512();
          }
        }
        transpose(block);
      } else if (i + kLanes <= s.width && (w + kLanes) * Words::kPerWord <= s.k) {
#pragma GCC unroll 16
        for (int64_t t = 0; t < kLanes; ++t) {
          block[t] = Words::across(s, i, (w + t) * Words::kPerWord, std::true_type{});
        }
      } else {
        for (int64_t t = 0; t < kLanes; ++t) {
          const int64_t p = (w + t) * Words::kPerWord;
          block[t] = p < s.k ? Words::across(s, i, p) : _mm512_setzero_si512();
        }
      }
      uint32_t* row = out + w * kWidth + i;
      const __mmask16 mask = first16(kWidth - i);
      if (count == kLanes) {
#pragma GCC unroll 16
        for (int64_t t = 0; t < kLanes; ++t) {
          _mm512_mask_storeu_epi32(row + t * kWidth, mask, block[t]);
        }
      } else {
        for (int64_t t = 0; t < count; ++t) {
          _mm512_mask_storeu_epi32(row + t * kWidth, mask, block[t]);
        }
      }
    }
  }
}

// Row-major, as AMX takes its left operand.
void pack_amx_rows(const Strip& s, void* to) {
  auto* out = static_cast<char*>(to);
  const int64_t stride = packed_row_bytes(s.panel_k);
  for (int64_t p = 0; p < s.k; p += 32, out += 64) {
    for (int64_t i = 0; i < 32; i += kLanes) {
      __m512i block[kLanes];
      if (s.k_contiguous) {
        for (int64_t t = 0; t < kLanes; ++t) {
          block[t] = i + t < s.width ? BFloat16Words::along_k(s, i + t, p) : _mm512_setzero_si512();
        }
      } else if (i + kLanes <= s.width && p + 32 <= s.k) {
#pragma GCC unroll 16
        for (int64_t t = 0; t < kLanes; ++t) {
          block[t] = BFloat16Words::across(s, i, p + 2 * t, std::true_type{});
        }
        transpose(block);
      } else {
        for (int64_t t = 0; t < kLanes; ++t) {
          block[t] =
              p + 2 * t < s.k ? BFloat16Words::across(s, i, p + 2 * t) : _mm512_setzero_si512();
        }
        transpose(block);
      }
#pragma GCC unroll 16
      for (int64_t t = 0; t < kLanes; ++t) _mm512_storeu_si512(out + (i + t) * stride, block[t]);
    }
  }
}

constexpr int kRows = 14, kColumns = 32;  // 28 accumulators of the 32 registers

inline __attribute__((always_inline)) void write_tile(__m512 (&sum)[kRows][2], float* c,
                                                      int64_t ldc, bool add) {
  if (add) {
#pragma GCC unroll 14
    for (int i = 0; i < kRows; ++i) {
      _mm512_storeu_ps(c + i * ldc, _mm512_add_ps(_mm512_loadu_ps(c + i * ldc), sum[i][0]));
      _mm512_storeu_ps(c + i * ldc + 16,
                       _mm512_add_ps(_mm512_loadu_ps(c + i * ldc + 16), sum[i][1]));
    }
  } else {
#pragma GCC unroll 14
    for (int i = 0; i < kRows; ++i) {
      _mm512_storeu_ps(c + i * ldc, sum[i][0]);
      _mm512_storeu_ps(c + i * ldc + 16, sum[i][1]);
    }
  }
}

void multiply_f32(const TileProduct& tile) {
  const auto* a = static_cast<const float*>(tile.a);
  const auto* b = static_cast<const float*>(tile.b);
  for (int i = 0; i < kRows; ++i) {
    _mm_prefetch(reinterpret_cast<const char*>(tile.c + i * tile.ldc), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(tile.c + i * tile.ldc + 16), _MM_HINT_T0);
  }
  __m512 sum[kRows][2];
#pragma GCC unroll 14
  for (int i = 0; i < kRows; ++i) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
  for (int64_t p = 0; p < tile.k; ++p) {
    const __m512 b0 = _mm512_loadu_ps(b), b1 = _mm512_loadu_ps(b + 16);
#pragma GCC unroll 14
    for (int i = 0; i < kRows; ++i) {
      const __m512 x = _mm512_set1_ps(a[i]);
      sum[i][0] = _mm512_fmadd_ps(x, b0, sum[i][0]);
      sum[i][1] = _mm512_fmadd_ps(x, b1, sum[i][1]);
    }
    a += kRows;
    b += kColumns;
  }
  write_tile(sum, tile.c, tile.ldc, tile.add);
}

void multiply_bf16(const TileProduct& tile) {
  const auto* a = static_cast<const int*>(tile.a);
  const auto* b = static_cast<const int*>(tile.b);
  __m512 sum[kRows][2];
#pragma GCC unroll 14
  for (int i = 0; i < kRows; ++i) sum[i][0] = sum[i][1] = _mm512_setzero_ps();
  for (int64_t p = 0; p < tile.k; p += 2) {
    const auto b0 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b));
    const auto b1 = reinterpret_cast<__m512bh>(_mm512_loadu_si512(b + 16));
#pragma GCC unroll 14
    for (int i = 0; i < kRows; ++i) {
      const auto x = reinterpret_cast<__m512bh>(_mm512_set1_epi32(a[i]));
      sum[i][0] = _mm512_dpbf16_ps(sum[i][0], x, b0);
      sum[i][1] = _mm512_dpbf16_ps(sum[i][1], x, b1);
    }
    a += kRows;
    b += kColumns;
  }
  write_tile(sum, tile.c, tile.ldc, tile.add);
}

void multiply_amx(const TileProduct& tile) {
  const auto* a = static_cast<const char*>(tile.a);
  const auto* b = static_cast<const char*>(tile.b);
  const int64_t a_row = tile.a_stride, row = tile.ldc * static_cast<int64_t>(sizeof(float));
  float *upper = tile.c, *lower = tile.c + 16 * tile.ldc;
  if (tile.add) {
    _tile_loadd(0, upper, row);
    _tile_loadd(1, upper + 16, row);
    _tile_loadd(2, lower, row);
    _tile_loadd(3, lower + 16, row);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t p = 0; p < tile.k; p += 32, a += 64, b += 2048) {
    _tile_loadd(4, a, a_row);
    _tile_loadd(6, b, 128);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + 64, 128);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a + 16 * a_row, a_row);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, upper, row);
  _tile_stored(1, upper + 16, row);
  _tile_stored(2, lower, row);
  _tile_stored(3, lower + 16, row);
}

struct alignas(64) TileConfiguration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

void begin_amx() {
  static const TileConfiguration configuration;
  _tile_loadconfig(&configuration);
}

void end_amx() {
  _tile_release();
}

constexpr MatmulKernel kFloat32 = {
    .name = "avx512",
    .mr = kRows,
    .nr = kColumns,
    .k_unit = 1,
    .bytes_per_k = 4,
    .k_block = 256,
    .k_single = 256,
    .k_pass = 1024,
    .block_bytes = 768 << 10,
    .reads_rows = false,
    .pack_a = pack_word_major<Float32Words, kRows, 1>,
    .pack_b = pack_word_major<Float32Words, kColumns, 1>,
    .multiply = multiply_f32,
    .begin = nullptr,
    .end = nullptr,
};

constexpr MatmulKernel widened() {
  MatmulKernel kernel = kFloat32;
  kernel.name = "avx512 (bf16 widened)";
  kernel.pack_a = pack_word_major<WidenedWords, kRows, 1>;
  kernel.pack_b = pack_word_major<WidenedWords, kColumns, 1>;
  return kernel;
}
constexpr MatmulKernel kWidened = widened();

constexpr MatmulKernel kBFloat16 = {
    .name = "avx512_bf16",
    .mr = kRows,
    .nr = kColumns,
    .k_unit = 2,
    .bytes_per_k = 2,
    .k_block = 512,
    .k_single = 512,
    .k_pass = 2048,
    .block_bytes = 768 << 10,
    .reads_rows = false,
    .pack_a = pack_word_major<BFloat16Words, kRows, 1>,
    .pack_b = pack_word_major<BFloat16Words, kColumns, 1>,
    .multiply = multiply_bf16,
    .begin = nullptr,
    .end = nullptr,
};

constexpr MatmulKernel kAmx = {
    .name = "amx_bf16",
    .mr = 32,
    .nr = 32,
    .k_unit = 32,
    .bytes_per_k = 2,
    .k_block = 256,
    .k_pass = 4096,
    .block_bytes = 1 << 20,
    .reads_rows = true,
    .pack_a = pack_amx_rows,
    .pack_b = pack_word_major<BFloat16Words, 32, 16>,
    .multiply = multiply_amx,
    .begin = begin_amx,
    .end = end_amx,
};

}  // namespace

const MatmulKernel* avx512_kernel(DType input) {
  return input == DType::bf16 ? &kWidened : &kFloat32;
}
const MatmulKernel* avx512_bf16_kernel() {
  return &kBFloat16;
}
const MatmulKernel* amx_bf16_kernel() {
  return &kAmx;
}

}  // namespace engine::kernels::cpu
#pragma GCC pop_options
#pragma GCC diagnostic pop

#else

namespace engine::kernels::cpu {
const MatmulKernel* avx512_kernel(DType) {
  return nullptr;
}
const MatmulKernel* avx512_bf16_kernel() {
  return nullptr;
}
const MatmulKernel* amx_bf16_kernel() {
  return nullptr;
}
}  // namespace engine::kernels::cpu

#endif
