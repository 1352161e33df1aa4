// What the forward and the backward of attention share: the geometry of tiles, and the vector code
// between two matrix products of a tile.
//
// Scores of a tile lie transposed, [key][query]: queries are the lanes of vectors. So the softmax
// needs no horizontal reduction, lse and rowsum(dout · out) are plain vectors, and keys and values
// are read as they lie in memory. Tiles start at multiples of 64 from the start of each sequence:
// its result does not depend on what it is packed with.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>

#include "kernels/api/attention.h"
#include "kernels/api/dropout.h"
#include "kernels/cpu/vector_math.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpsabi"

namespace engine::kernels::cpu::attention {

inline constexpr int kTile = 64;  // queries and keys of a tile
inline constexpr int kMaxHeadDim = 256;
inline constexpr float kLog2e = 1.44269504088896341f;
inline constexpr float kLn2 = 0.693147180559945309f;
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}
constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Row length of all scratch matrices [.., head_dim]: zero from head_dim on.
constexpr int64_t padded_dim(int64_t head_dim) {
  return round_up(head_dim, 32);
}

// One sequence of the batch. The last query is at the position of the last key in use.
struct Sequence {
  int64_t first_query, num_queries;
  int64_t first_key, num_keys;  // keys in use
  int64_t key_span;             // keys of cu_seqlens_k, in use or not
  int64_t position(int64_t query) const { return query + num_keys - num_queries; }
};

inline Sequence sequence_of(const AttentionShape& shape, int64_t s) {
  const int64_t span = shape.cu_seqlens_k[s + 1] - shape.cu_seqlens_k[s];
  return {.first_query = shape.cu_seqlens_q[s],
          .num_queries = shape.cu_seqlens_q[s + 1] - shape.cu_seqlens_q[s],
          .first_key = shape.cu_seqlens_k[s],
          .num_keys = shape.seqused_k ? std::min<int64_t>(shape.seqused_k[s], span) : span,
          .key_span = span};
}

// Key tiles [begin, end) that some query of [first, last] sees.
struct TileRange {
  int64_t begin, end;
};
inline TileRange visible_tiles(const AttentionShape& shape, const Sequence& sequence, int64_t first,
                               int64_t last) {
  int64_t key_begin = 0, key_end = sequence.num_keys;
  if (shape.causal) key_end = std::min(key_end, sequence.position(last) + 1);
  if (shape.window > 0) {
    key_begin = std::max<int64_t>(0, sequence.position(first) - shape.window + 1);
  }
  if (key_begin >= key_end) return {0, 0};
  return {key_begin / kTile, ceil_div(key_end, kTile)};
}

// 2^x for x <= 0 (or a little above), relative error 1e-7; 0 below 2^-125; NaN stays.
ENGINE_INLINE F32x16 exp2_of_nonpositive(F32x16 x) {
  constexpr float kLowest = -125.0f;
  const auto fraction_power = [](F32x16 f) __attribute__((always_inline)) {
    // minimax of (2^f - 1)/f on [-1/2, 1/2], fitted for this file; 2^0 is exactly 1
    F32x16 p = splat(1.326472731e-3f);
    p = p * f + 9.671512991e-3f;
    p = p * f + 5.550733581e-2f;
    p = p * f + 2.402224243e-1f;
    p = p * f + 6.931470037e-1f;
    return p * f + 1.0f;
  };
#if defined(__AVX512F__)
  // Lanes that would underflow, which takes the processor 150 cycles, are masked away. (All-ones
  // masks are the plain instructions, of which gcc 12 warns.)
  const __m512 v = reinterpret_cast<__m512>(x);
  const __mmask16 normal = _mm512_cmp_ps_mask(v, _mm512_set1_ps(kLowest), _CMP_NLT_UQ);
  const __m512 n =
      _mm512_maskz_roundscale_ps(0xffff, v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const F32x16 p = fraction_power(x - reinterpret_cast<F32x16>(n));
  return reinterpret_cast<F32x16>(_mm512_maskz_scalef_ps(normal, reinterpret_cast<__m512>(p), n));
#else
  constexpr float kMagic = 12582912.0f;  // 1.5·2^23: adding it rounds to an integer
  const F32x16 v = x < kLowest ? splat(kLowest) : x;
  const F32x16 shifted = v + kMagic;
  const F32x16 p = fraction_power(v - (shifted - kMagic));
  const I32x16 n = reinterpret_cast<I32x16>(shifted) - std::bit_cast<int32_t>(kMagic);
  return x < kLowest ? F32x16{} : p * reinterpret_cast<F32x16>((n + 127) << 23);
#endif
}

// One float in all lanes, in one load. (splat() adds to zero first, which costs in an inner loop.)
ENGINE_INLINE F32x16 broadcast(const float* p) {
  const float x = *p;
  return F32x16{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
}

// Asks for a row of `count` elements that will be read (or written) a tile later. Rows of one head
// lie far apart in memory, a pattern that the processor does not foresee.
template <bool kWrite = false, typename T>
ENGINE_INLINE void prefetch_row(const T* row, int64_t count) {
  const char* const bytes = reinterpret_cast<const char*>(row);
  for (int64_t i = 0; i < count * static_cast<int64_t>(sizeof(T)); i += 64) {
    __builtin_prefetch(bytes + i, kWrite, 2);
  }
}

// Transposes 16 x 16 words in registers.
ENGINE_INLINE void transpose(F32x16 (&row)[16]) {
  const auto step = [&](auto low_half, auto high_half, int distance)
      __attribute__((always_inline)) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      if (i & distance) continue;
      const F32x16 a = row[i], b = row[i + distance];
      row[i] = __builtin_shuffle(a, b, low_half);
      row[i + distance] = __builtin_shuffle(a, b, high_half);
    }
  };
  step(I32x16{0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23},
       I32x16{8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31}, 8);
  step(I32x16{0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27},
       I32x16{4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31}, 4);
  step(I32x16{0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29},
       I32x16{2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31}, 2);
  step(I32x16{0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30},
       I32x16{1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31}, 1);
}

// to[c][r] = from[r][c] for r < rows, c < columns, both multiples of 16; strides in words.
inline void transpose_words(const void* from, int64_t from_stride, void* to, int64_t to_stride,
                            int64_t rows, int64_t columns) {
  const auto* source = static_cast<const char*>(from);
  auto* target = static_cast<char*>(to);
  for (int64_t r = 0; r < rows; r += 16) {
    for (int64_t c = 0; c < columns; c += 16) {
      F32x16 block[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        std::memcpy(&block[i], source + ((r + i) * from_stride + c) * 4, sizeof block[i]);
      }
      transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        std::memcpy(target + ((c + i) * to_stride + r) * 4, &block[i], sizeof block[i]);
      }
    }
  }
}

// Writes scratch [dim][kTile] as rows of [query][dim], each query scaled by its own factor.
template <typename T>
inline void store_transposed(const float* from, const float* factor, T* to, int64_t stride,
                             int64_t count, int64_t dim) {
  for (int64_t q = 0; q < count; q += 16) {
    for (int64_t i = 0; i < 16; ++i) prefetch_row<true>(to + (q + i + kTile) * stride, dim);
    const F32x16 scale = load(factor + q);
    for_vectors(
        dim, [&](int64_t d, auto lanes) __attribute__((always_inline)) {
          F32x16 block[16];
#pragma GCC unroll 16
          for (int i = 0; i < 16; ++i) {
            block[i] = d + i < dim ? load(from + (d + i) * kTile + q) * scale : F32x16{};
          }
          transpose(block);
          const int64_t rows = std::min<int64_t>(16, count - q);
          for (int64_t i = 0; i < rows; ++i) store(to + (q + i) * stride + d, block[i], lanes);
        });
  }
}

void check_shape(const AttentionShape& shape);

// Where a tile pair lies: query lanes are tokens query + lane at position `position` + lane.
struct TilePlace {
  int64_t key;       // first key of the tile, within its sequence
  int64_t num_keys;  // keys of the tile that exist, at most kTile
  int64_t position;  // of the first query
  int64_t num_queries;
};

ENGINE_INLINE I32x16 lane_index() {
  return I32x16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
}

// Whether some query of the tile does not see some of its keys.
inline bool needs_mask(const AttentionShape& shape, const TilePlace& place) {
  const int64_t last_position = place.position + place.num_queries - 1;
  return place.num_keys < kTile ||
         (shape.causal && place.key + place.num_keys - 1 > place.position) ||
         (shape.window > 0 && place.key <= last_position - shape.window);
}

// scores = scores · log2(e) · scale + log2(e) · bias, and -inf where a query does not see a key;
// for rows [0, rows) of which those from num_keys on do not exist.
void bias_and_mask(const AttentionShape& shape, const TilePlace& place, const float* head_bias,
                   int64_t rows, int64_t lanes, float* scores);

// d_bias[δ] += Σ of dS over the pairs of the tile at distance δ.
void add_bias_gradient(const AttentionShape& shape, const TilePlace& place, int64_t lanes,
                       const float* d_scores, float* d_head_bias);

// factor[key][query] = 1 / (1 - p) where the generator keeps P, else 0.
void draw_dropout(const AttentionShape& shape, int64_t head, int64_t query_token, int64_t key,
                  int64_t rows, int64_t lanes, float* factor);

// Scratch of a thread, kept between calls: its size depends on head_dim alone.
class Scratch {  // one at a time on a thread
 public:
  explicit Scratch(size_t bytes);
  template <typename U>
  U* take(int64_t count) {
    U* result = reinterpret_cast<U*>(next_);
    next_ += round_up(count * static_cast<int64_t>(sizeof(U)), 64);
    require(next_ <= end_, "attention: scratch is too small");
    return result;
  }

 private:
  std::byte* next_;
  std::byte* end_;
};

}  // namespace engine::kernels::cpu::attention

#pragma GCC diagnostic pop
