// Between the two products of a tile: scale, bias, mask, softmax weights, dropout.
//
// Fragments as in tile.h. `by_query` says how scores lie: rows are queries and columns keys
// (forward, dq), or the other way round (dk and dv).
#pragma once

#include "kernels/api/dropout.h"
#include "kernels/cuda/attention/problem.h"
#include "kernels/cuda/device/math.h"

namespace engine::kernels::ENGINE_GPU::attention {

// Where a tile of scores lies: the indices, within the sequence, of its first row and column.
struct Place {
  int row, column;
};

// Scores outside visible(row) become -inf; columns are counted from the tile's first. (So the
// ranges change from tile to tile: the compiler cannot keep them in registers, which are scarce.)
template <int MT, int NT, typename Visible>
ENGINE_DEVICE void mask_scores(float (&s)[MT][NT][4], int first_row, const Visible& visible) {
  const int g = lane_index() / 4, column = 2 * (lane_index() % 4);
#pragma unroll
  for (int m = 0; m < MT; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Range range = visible(first_row + 16 * m + 8 * half + g);
#pragma unroll
      for (int n = 0; n < NT; ++n) {
#pragma unroll
        for (int q = 2 * half; q < 2 * half + 2; ++q) {
          if (!range.contains(column + 8 * n + (q & 1))) s[m][n][q] = -infinity();
        }
      }
    }
  }
}

// Scores in units of the natural logarithm: scale · s + bias. Keys and queries that do not exist
// may have distances outside of the table.
template <bool by_query, int MT, int NT>
ENGINE_DEVICE void scale_and_bias(float (&s)[MT][NT][4], const Problem& problem, int head,
                                  int offset, Place place) {
  const int g = lane_index() / 4, t = lane_index() % 4;
  const float* const bias = problem.distance_bias
                                ? problem.distance_bias + int64_t{head} * problem.distance_count
                                : nullptr;
#pragma unroll
  for (int m = 0; m < MT; ++m) {
#pragma unroll
    for (int n = 0; n < NT; ++n) {
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int row = place.row + 16 * m + g + 8 * (q >> 1);
        const int column = place.column + 8 * n + 2 * t + (q & 1);
        const int query = by_query ? row : column, key = by_query ? column : row;
        const int distance = key - (query + offset) + problem.distance_offset;
        const bool known = bias && distance >= 0 && distance < problem.distance_count;
        s[m][n][q] = s[m][n][q] * problem.scale + (known ? load(bias + distance) : 0.0f);
      }
    }
  }
}

// The factors of dropout for a 16 x 8 piece of scores whose first row and column are given: 0 or
// 1/(1 - p). A draw of the generator serves four consecutive keys of a query, so lanes share draws.
template <bool by_query>
ENGINE_DEVICE void dropout_factors(float (&factor)[4], const Problem& problem, uint64_t first_query,
                                   int first_key) {
  const int g = lane_index() / 4, t = lane_index() % 4;
  uint32_t word[4];  // of the fragment's four elements
  if constexpr (by_query) {
    // Two lanes share the draws of rows g and g + 8: the even one makes the first.
    const bool odd = t & 1;
    const uint64_t query = first_query + g + (odd ? 8 : 0);
    const Philox4 draw =
        philox4x32(read(problem.dropout_seed),
                   ((query << 20) + static_cast<uint64_t>(first_key + 4 * (t >> 1))) / 4);
    const uint32_t got0 = shuffle_xor(odd ? draw.word[0] : draw.word[2], 1);
    const uint32_t got1 = shuffle_xor(odd ? draw.word[1] : draw.word[3], 1);
    const uint32_t own0 = odd ? draw.word[2] : draw.word[0];
    const uint32_t own1 = odd ? draw.word[3] : draw.word[1];
    word[0] = odd ? got0 : own0;
    word[1] = odd ? got1 : own1;
    word[2] = odd ? own0 : got0;
    word[3] = odd ? own1 : got1;
  } else {
    // Four lanes (keys 4a .. 4a + 3) share four draws, for elements 0 to 3 of their fragments: each
    // makes the one that its place among them says, then they transpose.
    const int place = g & 3;
    const uint64_t query = first_query + 2 * t + (place & 1);
    const int key = first_key + (g & 4) + 8 * (place >> 1);
    const Philox4 draw =
        philox4x32(read(problem.dropout_seed), ((query << 20) + static_cast<uint64_t>(key)) / 4);
    uint32_t w[4] = {draw.word[0], draw.word[1], draw.word[2], draw.word[3]};
    const auto permute = [place](uint32_t(&x)[4]) {  // x[i] becomes x[i ^ place]
      if (place & 1) {
        const uint32_t x0 = x[0], x2 = x[2];
        x[0] = x[1], x[1] = x0, x[2] = x[3], x[3] = x2;
      }
      if (place & 2) {
        const uint32_t x0 = x[0], x1 = x[1];
        x[0] = x[2], x[2] = x0, x[1] = x[3], x[3] = x1;
      }
    };
    permute(w);
    word[0] = w[0];
#pragma unroll
    for (int i = 1; i < 4; ++i) word[i] = shuffle_xor(w[i], i << 2);
    permute(word);
  }
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    factor[q] = uniform_from_bits(word[q]) >= problem.dropout_p ? problem.keep_scale : 0.0f;
  }
}

// The row of the dropout generator for the query of this token.
ENGINE_DEVICE uint64_t dropout_row(const Problem& problem, int head, int token) {
  return static_cast<uint64_t>(head) * static_cast<uint64_t>(problem.total_q) +
         static_cast<uint64_t>(static_cast<int64_t>(token));
}

// 2^(...) such that a score equal to `zero` gives 1: e^(factor (s - zero)) with factor in natural
// units, log2_factor = factor · log2 e. bf16: one multiply-add, |error| <= 2^-24 |factor · zero|;
// fp32: the difference first, which is exact where it matters.
template <typename T>
ENGINE_DEVICE float exp_of_difference(float s, float zero, float log2_factor) {
  if constexpr (sizeof(T) == 2) {
    return exp2_approx(s * log2_factor - zero * log2_factor);
  } else {
    return exp2_approx((s - zero) * log2_factor);
  }
}

}  // namespace engine::kernels::ENGINE_GPU::attention
