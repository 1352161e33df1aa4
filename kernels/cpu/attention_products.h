// The matrix products of attention's tiles, in two forms with one interface:
//   VectorProducts<T>  operands widened to fp32, vector fused multiply-adds; any machine, any dtype
//   AmxProducts        bf16 operands in the matrix unit, fp32 sums (attention_amx.h)
//
// Five products make attention; scores and all that comes from them lie [key][query]:
//   scores   [key][query]  = Σ_dim   rows[key][dim] · rows[query][dim]    (also of v with dout)
//   gather   [dim][query] += Σ_key   rows[key][dim] · weights[key][query] (out, d_q)
//   scatter  [key][dim]   += Σ_query weights[key][query] · rows[query][dim]  (d_v, d_k)
#pragma once

#include "kernels/cpu/attention_tile.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpsabi"

namespace engine::kernels::cpu::attention {

// A tile of the user's rows: `count` rows of `dim` elements, `stride` apart.
template <typename T>
struct UserRows {
  const T* data;
  int64_t stride, count, dim;
};

template <typename T>
struct VectorProducts {
  using Element = float;
  struct Session {};  // what a thread needs while it computes
  // Rows and lanes of a tile are rounded up to these; what is beyond the tile is zero.
  static constexpr int64_t kRowMultiple = 2, kLaneMultiple = 16;
  static constexpr int64_t kElementsPerRow = 1;  // scratch of an operand, in units of kTile · dim

  // Operands, each kTile · padded_dim elements of scratch.
  struct Keys {
    float* rows;  // [key][dim]
    Keys() = default;
    Keys(Scratch& scratch, int64_t padded) : rows(scratch.take<float>(kTile * padded)) {}
    void stage(const UserRows<T>& user, int64_t padded) { stage_rows(user, padded, rows); }
    // scores and gather read the same rows
    void stage_for_gather(const UserRows<T>& user, int64_t padded) {
      stage_rows(user, padded, rows);
    }
    void stage_for_both(const UserRows<T>& user, int64_t padded) { stage_rows(user, padded, rows); }
    static constexpr int64_t bytes(int64_t padded) { return kTile * padded * 4; }
  };
  struct Queries {
    float* rows;     // [query][dim]
    float* columns;  // [dim][query]
    Queries() = default;
    Queries(Scratch& scratch, int64_t padded)
        : rows(scratch.take<float>(kTile * padded)), columns(scratch.take<float>(kTile * padded)) {}
    void stage(const UserRows<T>& user, int64_t padded) {
      stage_rows(user, padded, rows);
      transpose_words(rows, padded, columns, kTile, kTile, round_up(user.dim, 16));
    }
    static constexpr int64_t bytes(int64_t padded) { return 2 * kTile * padded * 4; }
  };
  // P or dS, rounded to T.
  struct Weights {
    float* data;  // [key][query]
    explicit Weights(Scratch& scratch) : data(scratch.take<float>(kTile * kTile)) {}
    static constexpr int64_t bytes() { return kTile * kTile * 4; }
    // Two neighbouring rows, `row` even.
    ENGINE_INLINE void put_for_gather(int64_t row, int64_t lane, F32x16 even, F32x16 odd) {
      store(data + row * kTile + lane, round_to<T>(even));
      store(data + (row + 1) * kTile + lane, round_to<T>(odd));
    }
    ENGINE_INLINE void put_for_scatter(int64_t row, int64_t lane, F32x16 even, F32x16 odd) {
      put_for_gather(row, lane, even, odd);
    }
    ENGINE_INLINE void put_for_both(int64_t row, int64_t lane, F32x16 even, F32x16 odd) {
      put_for_gather(row, lane, even, odd);
    }
  };

  static void scores(const Keys& keys, const Queries& queries, int64_t rows, int64_t lanes,
                     int64_t dim, int64_t padded, float* out) {
    product<false>(rows, lanes, dim, {keys.rows, padded, 1}, queries.columns, kTile, out, kTile);
  }
  template <bool kAdd>
  static void gather(const Keys& keys, const Weights& weights, int64_t rows, int64_t lanes,
                     int64_t dim, int64_t padded, float* out) {
    product<kAdd>(dim, lanes, rows, {keys.rows, 1, padded}, weights.data, kTile, out, kTile);
  }
  static void scatter(const Weights& weights, const Queries& queries, int64_t rows, int64_t lanes,
                      int64_t dim, int64_t padded, float* out) {
    product<true>(rows, round_up(dim, 16), lanes, {weights.data, kTile, 1}, queries.rows, padded,
                  out, padded);
  }

 private:
  static void stage_rows(const UserRows<T>& user, int64_t padded, float* to) {
    for (int64_t r = 0; r < user.count; ++r) {
      const T* from = user.data + r * user.stride;
      float* const row = to + r * padded;
      prefetch_row(from + kTile * user.stride, user.dim);
      for_vectors(
          user.dim, [&](int64_t d, auto lanes)
                        __attribute__((always_inline)) { store(row + d, load(from + d, lanes)); });
      for (int64_t d = round_up(user.dim, 16); d < padded; ++d) row[d] = 0.0f;
    }
    std::fill(to + user.count * padded, to + kTile * padded, 0.0f);
  }

  // Through store(), gcc 12 would first copy all sums to the stack.
  using Unaligned = float __attribute__((vector_size(64), aligned(4), may_alias));

  struct Left {
    const float* data;
    int64_t row_stride, step_stride;
  };

  // c[R][16 V] (+)= Σ_k left[R][k] · b[k][16 V]: R x V sums stay in registers.
  template <bool kAdd, int R, int V>
  static void block(int64_t steps, Left left, const float* b, int64_t ldb, float* c, int64_t ldc) {
    F32x16 sum[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = kAdd ? load(c + r * ldc + 16 * v) : F32x16{};
    }
    const float* a = left.data;
    for (int64_t k = 0; k < steps; ++k) {
      F32x16 right[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) right[v] = load(b + 16 * v);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const F32x16 factor = broadcast(a + r * left.row_stride);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[r][v] += factor * right[v];
      }
      a += left.step_stride;
      b += ldb;
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) *reinterpret_cast<Unaligned*>(c + r * ldc + 16 * v) = sum[r][v];
    }
  }

  template <bool kAdd, int V>
  static void panel(int64_t rows, int64_t steps, Left left, const float* b, int64_t ldb, float* c,
                    int64_t ldc) {
    int64_t r = 0;
    const auto at = [&](int64_t row) {
      return Left{left.data + row * left.row_stride, left.row_stride, left.step_stride};
    };
    for (; r + 6 <= rows; r += 6) block<kAdd, 6, V>(steps, at(r), b, ldb, c + r * ldc, ldc);
    for (; r + 2 <= rows; r += 2) block<kAdd, 2, V>(steps, at(r), b, ldb, c + r * ldc, ldc);
    for (; r < rows; ++r) block<kAdd, 1, V>(steps, at(r), b, ldb, c + r * ldc, ldc);
  }

  template <bool kAdd>
  static void product(int64_t rows, int64_t columns, int64_t steps, Left left, const float* b,
                      int64_t ldb, float* c, int64_t ldc) {
    int64_t n = 0;
    for (; n + 64 <= columns; n += 64) panel<kAdd, 4>(rows, steps, left, b + n, ldb, c + n, ldc);
    for (; n + 32 <= columns; n += 32) panel<kAdd, 2>(rows, steps, left, b + n, ldb, c + n, ldc);
    for (; n < columns; n += 16) panel<kAdd, 1>(rows, steps, left, b + n, ldb, c + n, ldc);
  }
};

}  // namespace engine::kernels::cpu::attention

#pragma GCC diagnostic pop
