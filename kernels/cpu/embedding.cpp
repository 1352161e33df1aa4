#include <algorithm>
#include <cstring>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/parallel.h"

namespace engine::kernels::cpu {
namespace {

constexpr int64_t kRowsPerPiece = 16;
// Columns that one piece of the backward owns. Each piece walks all tokens in order, so rows sum
// in token order without locks or sorting, and rows that no token names are never touched.
constexpr int64_t kColumnsPerPiece = 128;

template <typename T>
void add_rows(const EmbeddingBackward& p, const int32_t* rows, float scale, int64_t skipped_row,
              float* gradient) {
  const T* const d_out = static_cast<const T*>(p.d_out);
  parallel_for_ranges(p.hidden, kColumnsPerPiece, [=, &p](int64_t begin, int64_t end) {
    for (int64_t token = 0; token < p.tokens; ++token) {
      if (rows[token] == skipped_row) continue;
      const T* const from = d_out + token * p.hidden + begin;
      float* const to = gradient + rows[token] * p.hidden + begin;
      for_vectors(end - begin, [=](int64_t i, auto lanes) {
        store(to + i, load(to + i, lanes) + scale * load(from + i, lanes), lanes);
      });
    }
  });
}

}  // namespace

void embedding_forward(Stream, const EmbeddingForward& p) {
  with_float_type(p.table_dtype, [&](auto table_type) {
    with_float_type(p.output_dtype, [&](auto output_type) {
      using T = decltype(table_type);
      using O = decltype(output_type);
      const int64_t hidden = p.hidden;
      const float scale = p.scale;
      const auto embed = [&](int64_t token) {
        const T* const row = static_cast<const T*>(p.table) + p.ids[token] * hidden;
        O* const out = static_cast<O*>(p.out) + token * hidden;
        if (p.position_table == nullptr) {
          for_vectors(hidden, [=](int64_t i, auto lanes) {
            store(out + i, scale * load(row + i, lanes), lanes);
          });
          return;
        }
        const T* const position =
            static_cast<const T*>(p.position_table) + p.positions[token] * hidden;
        for_vectors(hidden, [=](int64_t i, auto lanes) {
          const F32x16 scaled = round_to<O>(scale * load(row + i, lanes));
          store(out + i, scaled + load(position + i, lanes), lanes);
        });
      };
      parallel_for_ranges(p.tokens, kRowsPerPiece, [&](int64_t begin, int64_t end) {
        for (int64_t token = begin; token < end; ++token) embed(token);
      });
    });
  });
}

size_t embedding_backward_workspace(int64_t, int64_t, int64_t, int64_t) {
  return 0;
}

void embedding_backward(Stream, const EmbeddingBackward& p) {
  with_float_type(p.output_dtype, [&](auto type) {
    using T = decltype(type);
    if (p.d_table != nullptr) add_rows<T>(p, p.ids, p.scale, p.padding_id, p.d_table);
    if (p.d_position_table != nullptr) add_rows<T>(p, p.positions, 1.0f, -1, p.d_position_table);
  });
}

namespace {

// Bytes of a row, and from one row to the next in x and out.
struct RowBytes {
  explicit RowBytes(const GatherRows& p)
      : row(static_cast<size_t>(p.width) * size_of(p.dtype)),
        x(static_cast<size_t>(p.x_stride ? p.x_stride : p.width) * size_of(p.dtype)),
        out(static_cast<size_t>(p.out_stride ? p.out_stride : p.width) * size_of(p.dtype)) {}
  static size_t index(const GatherRows& p, int64_t i) {
    return static_cast<size_t>(p.rows != nullptr ? p.rows[i] : i);
  }
  size_t row, x, out;
};

}  // namespace

void gather_rows(Stream, const GatherRows& p) {
  const RowBytes bytes(p);
  const auto* const x = static_cast<const std::byte*>(p.x);
  auto* const out = static_cast<std::byte*>(p.out);
  parallel_for_ranges(p.count, kRowsPerPiece, [=, &p](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::memcpy(out + static_cast<size_t>(i) * bytes.out, x + bytes.index(p, i) * bytes.x,
                  bytes.row);
    }
  });
}

void scatter_rows(Stream, const GatherRows& p) {
  const RowBytes bytes(p);
  const auto* const x = static_cast<const std::byte*>(p.x);
  auto* const out = static_cast<std::byte*>(p.out);
  parallel_for_ranges(p.count, kRowsPerPiece, [=, &p](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      std::memcpy(out + bytes.index(p, i) * bytes.out, x + static_cast<size_t>(i) * bytes.x,
                  bytes.row);
    }
  });
}

}  // namespace engine::kernels::cpu
