// The matrix products of attention's tiles in the AMX unit: bf16 operands, fp32 sums. Only where
// the compiler targets it; amx_is_usable() asks the operating system as well.
//
// The unit multiplies A [16 rows][32] by B [16 pairs of rows][16 columns][2]. As scores lie
// [key][query], keys and values are A as they are (or transposed), and queries and dS become B by
// putting two rows (or two dims of a row) side by side in a word.
#pragma once

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && \
    defined(__AVX512BW__) && defined(__linux__)
#define ENGINE_ATTENTION_AMX 1

#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/cpu/attention_products.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpsabi"

namespace engine::kernels::cpu::attention {

// Linux lends the matrix unit's state to a process that asks for it.
inline bool amx_is_usable() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  static const bool usable = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return usable;
}

struct AmxProducts {
  using Element = BFloat16;
  static constexpr int64_t kRowMultiple = 32, kLaneMultiple = 32;

  struct Session {
    Session() {
      struct alignas(64) {
        uint8_t palette = 1, start_row = 0, reserved[14] = {};
        uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
      } config;
      // The compiler does not see that the instruction reads `config`.
      asm volatile("" : : "r"(&config) : "memory");
      _tile_loadconfig(&config);
    }
    ~Session() { _tile_release(); }
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;
  };

  struct Keys {
    BFloat16* rows;        // [key][dim]
    BFloat16* transposed;  // [dim][key]
    uint32_t* pairs;       // [key / 2][dim], two keys side by side
    Keys() = default;
    Keys(Scratch& scratch, int64_t padded)
        : rows(scratch.take<BFloat16>(kTile * padded)),
          transposed(scratch.take<BFloat16>(kTile * padded)),
          pairs(scratch.take<uint32_t>(kTile / 2 * padded)) {}
    static constexpr int64_t bytes(int64_t padded) { return 3 * kTile * padded * 2; }
    void stage(const UserRows<BFloat16>& user, int64_t padded) { stage_rows(user, padded, rows); }
    void stage_for_both(const UserRows<BFloat16>& user, int64_t padded) {
      stage_rows(user, padded, rows);
      interleave(rows, padded, pairs);
      transpose_words(pairs, padded, transposed, kTile / 2, kTile / 2, padded);
    }
    void stage_for_gather(const UserRows<BFloat16>& user, int64_t padded) {
      stage_for_both(user, padded);
    }
  };
  struct Queries {
    BFloat16* rows;     // [query][dim]
    uint32_t* columns;  // [dim / 2][query], two dims side by side
    uint32_t* pairs;    // [query / 2][dim], two queries side by side
    Queries() = default;
    Queries(Scratch& scratch, int64_t padded)
        : rows(scratch.take<BFloat16>(kTile * padded)),
          columns(scratch.take<uint32_t>(kTile / 2 * padded)),
          pairs(scratch.take<uint32_t>(kTile / 2 * padded)) {}
    static constexpr int64_t bytes(int64_t padded) { return 3 * kTile * padded * 2; }
    void stage(const UserRows<BFloat16>& user, int64_t padded) {
      stage_rows(user, padded, rows);
      transpose_words(rows, padded / 2, columns, kTile, kTile, padded / 2);
      interleave(rows, padded, pairs);
    }
  };
  struct Weights {
    BFloat16* rows;   // [key][query]
    uint32_t* pairs;  // [key / 2][query], two keys side by side
    explicit Weights(Scratch& scratch)
        : rows(scratch.take<BFloat16>(kTile * kTile)),
          pairs(scratch.take<uint32_t>(kTile / 2 * kTile)) {}
    static constexpr int64_t bytes() { return 2 * kTile * kTile * 2; }
    // Subnormals become zero in the conversion, as they would in the matrix unit.
    ENGINE_INLINE void put_for_gather(int64_t row, int64_t lane, F32x16 even, F32x16 odd) {
      const auto low = reinterpret_cast<U16x16>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(even)));
      const auto high = reinterpret_cast<U16x16>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(odd)));
      put_pairs(row, lane, low, high);
    }
    ENGINE_INLINE void put_for_scatter(int64_t row, int64_t lane, F32x16 even, F32x16 odd) {
      const auto low = reinterpret_cast<U16x16>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(even)));
      const auto high = reinterpret_cast<U16x16>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(odd)));
      put_rows(row, lane, low, high);
    }
    ENGINE_INLINE void put_for_both(int64_t row, int64_t lane, F32x16 even, F32x16 odd) {
      const auto low = reinterpret_cast<U16x16>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(even)));
      const auto high = reinterpret_cast<U16x16>(_mm512_cvtneps_pbh(reinterpret_cast<__m512>(odd)));
      put_rows(row, lane, low, high);
      put_pairs(row, lane, low, high);
    }

   private:
    ENGINE_INLINE void put_rows(int64_t row, int64_t lane, U16x16 low, U16x16 high) {
      std::memcpy(rows + row * kTile + lane, &low, sizeof low);
      std::memcpy(rows + (row + 1) * kTile + lane, &high, sizeof high);
    }
    ENGINE_INLINE void put_pairs(int64_t row, int64_t lane, U16x16 low, U16x16 high) {
      const U32x16 words = widen(low) | (widen(high) << 16);
      std::memcpy(pairs + row / 2 * kTile + lane, &words, sizeof words);
    }
  };

  static void scores(const Keys& keys, const Queries& queries, int64_t rows, int64_t lanes, int64_t,
                     int64_t padded, float* out) {
    product<false>(rows, lanes, padded, keys.rows, padded, queries.columns, kTile, out, kTile);
  }
  template <bool kAdd>
  static void gather(const Keys& keys, const Weights& weights, int64_t rows, int64_t lanes,
                     int64_t dim, int64_t, float* out) {
    product<kAdd>(round_up(dim, 16), lanes, rows, keys.transposed, kTile, weights.pairs, kTile, out,
                  kTile);
  }
  static void scatter(const Weights& weights, const Queries& queries, int64_t rows, int64_t lanes,
                      int64_t dim, int64_t padded, float* out) {
    product<true>(rows, round_up(dim, 16), lanes, weights.rows, kTile, queries.pairs, padded, out,
                  padded);
  }

 private:
  static void stage_rows(const UserRows<BFloat16>& user, int64_t padded, BFloat16* to) {
    for (int64_t r = 0; r < user.count; ++r) {
      const size_t bytes = static_cast<size_t>(user.dim) * sizeof(BFloat16);
      const BFloat16* const from = user.data + r * user.stride;
      prefetch_row(from + kTile * user.stride, user.dim);
      std::memcpy(to + r * padded, from, bytes);
      std::memset(to + r * padded + user.dim, 0, static_cast<size_t>(padded) * 2 - bytes);
    }
    std::memset(to + user.count * padded, 0,
                static_cast<size_t>((kTile - user.count) * padded) * sizeof(BFloat16));
  }

  // pairs[r][c] = rows 2r and 2r + 1 of column c in one word.
  static void interleave(const BFloat16* rows, int64_t padded, uint32_t* pairs) {
    for (int64_t r = 0; r < kTile / 2; ++r) {
      for (int64_t c = 0; c < padded; c += 16) {
        U16x16 low, high;
        std::memcpy(&low, rows + 2 * r * padded + c, sizeof low);
        std::memcpy(&high, rows + (2 * r + 1) * padded + c, sizeof high);
        const U32x16 words = widen(low) | (widen(high) << 16);
        std::memcpy(pairs + r * padded + c, &words, sizeof words);
      }
    }
  }

  // c[16 M][16 N] (+)= Σ_k a[16 M][k] · b[k][16 N], with M, N <= 2.
  template <bool kAdd, int M, int N>
  static void block(int64_t steps, const BFloat16* a, int64_t lda, const uint32_t* b, int64_t ldb,
                    float* c, int64_t ldc) {
    const auto c_bytes = static_cast<size_t>(ldc) * 4;
    float* const c10 = c + 16 * ldc;
    if constexpr (kAdd) {
      _tile_loadd(0, c, c_bytes);
      if constexpr (N == 2) _tile_loadd(1, c + 16, c_bytes);
      if constexpr (M == 2) _tile_loadd(2, c10, c_bytes);
      if constexpr (M == 2 && N == 2) _tile_loadd(3, c10 + 16, c_bytes);
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    for (int64_t k = 0; k < steps; k += 32) {
      const uint32_t* const pairs = b + k / 2 * ldb;
      _tile_loadd(4, a + k, static_cast<size_t>(lda) * 2);
      _tile_loadd(6, pairs, static_cast<size_t>(ldb) * 4);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (N == 2) {
        _tile_loadd(7, pairs + 16, static_cast<size_t>(ldb) * 4);
        _tile_dpbf16ps(1, 4, 7);
      }
      if constexpr (M == 2) {
        _tile_loadd(5, a + 16 * lda + k, static_cast<size_t>(lda) * 2);
        _tile_dpbf16ps(2, 5, 6);
        if constexpr (N == 2) _tile_dpbf16ps(3, 5, 7);
      }
    }
    _tile_stored(0, c, c_bytes);
    if constexpr (N == 2) _tile_stored(1, c + 16, c_bytes);
    if constexpr (M == 2) _tile_stored(2, c10, c_bytes);
    if constexpr (M == 2 && N == 2) _tile_stored(3, c10 + 16, c_bytes);
  }

  template <bool kAdd>
  static void product(int64_t rows, int64_t columns, int64_t steps, const BFloat16* a, int64_t lda,
                      const uint32_t* b, int64_t ldb, float* c, int64_t ldc) {
    // The compiler does not see that tile loads and stores touch memory.
    asm volatile("" : : : "memory");
    for (int64_t m = 0; m < rows; m += 32) {
      const bool two_rows = m + 32 <= rows;
      for (int64_t n = 0; n < columns; n += 32) {
        const bool two_columns = n + 32 <= columns;
        const auto* const am = a + m * lda;
        float* const cmn = c + m * ldc + n;
        if (two_rows && two_columns) {
          block<kAdd, 2, 2>(steps, am, lda, b + n, ldb, cmn, ldc);
        } else if (two_rows) {
          block<kAdd, 2, 1>(steps, am, lda, b + n, ldb, cmn, ldc);
        } else if (two_columns) {
          block<kAdd, 1, 2>(steps, am, lda, b + n, ldb, cmn, ldc);
        } else {
          block<kAdd, 1, 1>(steps, am, lda, b + n, ldb, cmn, ldc);
        }
      }
    }
    asm volatile("" : : : "memory");
  }
};

}  // namespace engine::kernels::cpu::attention

#pragma GCC diagnostic pop

#endif
