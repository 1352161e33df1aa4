// Embedding lookup and its gradient.
//
// Bound by memory: forward, a row read and a row written per token; backward, d_out read once and
// the gradient rows of the tokens that occur read and written once (4 bytes per element each way),
// in whole sectors.
//
// The backward is deterministic without floating-point atomics:
//   1. The tokens are sorted by id, stably (embedding/sort.cu).
//   2. A warp sums 32 neighbours of the sorted order for 256 columns, and adds every run of equal
//      ids to its row of the table, except the rest of a run that began before: that sum is stored.
//   3. Those rests are added, in order, to the row of their run.
// So a row sums its tokens in order, in pieces of at most 32.
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device/eight.h"
#include "kernels/cuda/device/four.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/warp.h"
#include "kernels/cuda/embedding/sort.h"

namespace engine::kernels::ENGINE_GPU {
namespace {

constexpr int kThreads = 256;

// --- Forward -----------------------------------------------------------------------------------

struct Lookup {
  EmbeddingForward embedding;
  int64_t pieces;  // of eight elements, in a row
  bool whole;
};

// T: table dtype, O: output dtype.
template <typename T, typename O>
__global__ void __launch_bounds__(kThreads) embedding_forward_kernel(const Lookup p) {
  const EmbeddingForward& e = p.embedding;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= e.tokens * p.pieces) return;
  const int64_t token = quotient(index, p.pieces), i = (index - token * p.pieces) * 8;
  const int64_t valid = e.hidden - i;
  float x[8];
  to_floats(x, load_eight(static_cast<const T*>(e.table) + load(e.ids + token) * e.hidden + i,
                          valid, p.whole));
#pragma unroll
  for (int j = 0; j < 8; ++j) x[j] *= e.scale;
  if (e.position_table) {
    float position[8];
    to_floats(position, load_eight(static_cast<const T*>(e.position_table) +
                                       load(e.positions + token) * e.hidden + i,
                                   valid, p.whole));
#pragma unroll
    for (int j = 0; j < 8; ++j) x[j] = rounded_to<O>(x[j]) + position[j];
  }
  store_eight(static_cast<O*>(e.out) + token * e.hidden + i, x, valid, p.whole);
}

// --- Backward: the sums ------------------------------------------------------------------------

constexpr int kPiece = kWarp;        // sorted tokens of one warp
constexpr int kColumns = 8 * kWarp;  // columns of one warp: each lane has four, and four more
constexpr int kApart = 4 * kWarp;    // that lie so much further on
constexpr int kSumWarps = 4;

struct Sums {
  const Entry* sorted;  // [tokens]
  int64_t tokens, hidden;
  const void* d_out;
  float* table;  // [rows, hidden]
  float* rests;  // [pieces, hidden]: sums of what continues a run of the piece before
  float scale;
  int64_t skipped_row;
  bool whole;
};

ENGINE_DEVICE int32_t row_at(const Sums& p, int64_t i) {
  return i >= 0 && i < p.tokens ? load(p.sorted[i].element) : -1;
}
ENGINE_DEVICE int64_t first_column() {
  return (static_cast<int64_t>(blockIdx.y) * (blockDim.x / kWarp) + warp_index()) * kColumns +
         lane_index() * 4;
}

// Of a lane's columns in a row, those that exist: `valid` counts from its first one.
ENGINE_DEVICE int valid_in(int64_t valid, int half) {
  const int64_t left = valid - half * kApart;
  return left < 0 ? 0 : left < 4 ? static_cast<int>(left) : 4;
}
template <typename T>
ENGINE_DEVICE void load_columns(float (&x)[2][4], const T* from, int64_t valid, bool whole) {
#pragma unroll
  for (int h = 0; h < 2; ++h) load_four(x[h], from + h * kApart, valid_in(valid, h), whole);
}
ENGINE_DEVICE void store_columns(float* to, const float (&x)[2][4], int64_t valid, bool whole) {
#pragma unroll
  for (int h = 0; h < 2; ++h) store_four(to + h * kApart, x[h], valid_in(valid, h), whole);
}
ENGINE_DEVICE void add_columns(float* to, const float (&sum)[2][4], int64_t valid, bool whole) {
  float total[2][4];
  load_columns(total, to, valid, whole);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int j = 0; j < 4; ++j) total[h][j] += sum[h][j];
  }
  store_columns(to, total, valid, whole);
}

template <typename T>
__global__ void __launch_bounds__(kSumWarps* kWarp) sum_runs_kernel(const Sums p) {
  constexpr int kAhead = static_cast<int>(16 / sizeof(T));  // rows that are loaded together
  const int64_t piece = blockIdx.x, begin = piece * kPiece, column = first_column();
  const int64_t valid = p.hidden - column;
  const int32_t row_before = row_at(p, begin - 1);
  int32_t own_row = -1, own_token = 0;
  if (begin + lane_index() < p.tokens) {
    const Entry own = load_vector<2>(p.sorted[begin + lane_index()].element);
    own_row = own[0];
    own_token = own[1];
  }
  const bool continues = row_before >= 0 && row_before == shuffle(own_row, 0);

  float sum[2][4] = {};
  int32_t row = shuffle(own_row, 0);
  bool is_rest = continues;
  const auto flush = [&] {
    if (row < 0 || row == p.skipped_row || valid <= 0) return;
    if (is_rest) {
      store_columns(p.rests + piece * p.hidden + column, sum, valid, p.whole);
    } else {
      add_columns(p.table + row * p.hidden + column, sum, valid, p.whole);
    }
  };
  for (int first = 0; first < kPiece; first += kAhead) {
    int32_t rows[kAhead];
    float d[kAhead][2][4];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      rows[k] = shuffle(own_row, first + k);
      const int64_t token = shuffle(own_token, first + k);
      load_columns(d[k], static_cast<const T*>(p.d_out) + token * p.hidden + column,
                   rows[k] >= 0 && rows[k] != p.skipped_row ? valid : 0, p.whole);
    }
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (rows[k] != row) {
        flush();
        row = rows[k];
        is_rest = false;
#pragma unroll
        for (int j = 0; j < 8; ++j) sum[j / 4][j % 4] = 0.0f;
      }
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[j / 4][j % 4] += p.scale * d[k][j / 4][j % 4];
    }
  }
  flush();
}

// For every run that begins in this piece and goes on in the next: adds its rests to its row.
__global__ void __launch_bounds__(kSumWarps* kWarp) add_rests_kernel(const Sums p) {
  const int64_t begin = blockIdx.x * int64_t{kPiece}, next = begin + kPiece;
  const int32_t row = row_at(p, next - 1);
  if (row < 0 || row == p.skipped_row || row_at(p, next) != row) return;
  if (row_at(p, begin - 1) == row) return;  // the run began before
  const int64_t column = first_column(), valid = p.hidden - column;
  float sum[2][4] = {};
  for (int64_t first = blockIdx.x + int64_t{1};; first += kWarp) {
    // rows are sorted: the pieces that start with this row are the next ones
    const int count = count_bits(ballot(row_at(p, (first + lane_index()) * kPiece) == row));
#pragma unroll 4
    for (int k = 0; k < count; ++k) {
      if (valid <= 0) continue;
      float rest[2][4];
      load_columns(rest, p.rests + (first + k) * p.hidden + column, valid, p.whole);
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[j / 4][j % 4] += rest[j / 4][j % 4];
    }
    if (count < kWarp) break;
  }
  if (valid > 0) add_columns(p.table + row * p.hidden + column, sum, valid, p.whole);
}

// --- Host --------------------------------------------------------------------------------------

template <typename T>
void launch_forward(Stream stream, const Lookup& lookup) {
  const int64_t items = lookup.embedding.tokens * lookup.pieces;
  const LaunchConfig config{.grid = {static_cast<unsigned>(ceil_div<int64_t>(items, kThreads))},
                            .block = {kThreads}};
  if (lookup.embedding.output_dtype == DType::bf16) {
    launch(stream, "embedding_forward", embedding_forward_kernel<T, BFloat16>, config, lookup);
  } else {
    launch(stream, "embedding_forward", embedding_forward_kernel<T, float>, config, lookup);
  }
}

void check_float(DType dtype) {
  require(dtype == DType::f32 || dtype == DType::bf16, "embedding: fp32 or bf16 only");
}

}  // namespace

void embedding_forward(Stream stream, const EmbeddingForward& arguments) {
  check_float(arguments.table_dtype);
  check_float(arguments.output_dtype);
  if (arguments.tokens == 0 || arguments.hidden == 0) return;
  const Lookup lookup{arguments, ceil_div<int64_t>(arguments.hidden, 8),
                      arguments.hidden % 8 == 0 &&
                          aligned_to_16(arguments.table, arguments.position_table, arguments.out)};
  if (arguments.table_dtype == DType::bf16) {
    launch_forward<BFloat16>(stream, lookup);
  } else {
    launch_forward<float>(stream, lookup);
  }
}

size_t embedding_backward_workspace(int64_t tokens, int64_t hidden, int64_t,
                                    int64_t position_rows) {
  const size_t sorts = (position_rows > 0 ? 2 : 1) * token_sort_workspace(tokens);
  return sorts + static_cast<size_t>(ceil_div<int64_t>(tokens, kPiece) * hidden) * sizeof(float);
}

void embedding_backward(Stream stream, const EmbeddingBackward& arguments) {
  check_float(arguments.output_dtype);
  if (arguments.tokens == 0 || arguments.hidden == 0) return;
  struct Table {
    const int32_t* rows;
    float* gradient;
    float scale;
    int64_t skipped_row, num_rows;
  };
  Table tables[2];
  int count = 0;
  if (arguments.d_table) {
    tables[count++] = {arguments.ids, arguments.d_table, arguments.scale, arguments.padding_id,
                       arguments.rows};
  }
  if (arguments.d_position_table) {
    tables[count++] = {arguments.positions, arguments.d_position_table, 1.0f, -1,
                       arguments.position_rows};
  }
  if (count == 0) return;

  auto* workspace = static_cast<std::byte*>(arguments.workspace);
  TokenSort sorts[kMostTokenSorts];
  for (int i = 0; i < count; ++i) {
    sorts[i] = {tables[i].rows, tables[i].num_rows, workspace};
    workspace += token_sort_workspace(arguments.tokens);
  }
  sort_tokens(stream, arguments.tokens, {sorts, static_cast<size_t>(count)});

  const int64_t slices = ceil_div<int64_t>(arguments.hidden, kColumns);
  const int64_t warps = slices < kSumWarps ? slices : kSumWarps;
  const LaunchConfig config{
      .grid = {static_cast<unsigned>(ceil_div<int64_t>(arguments.tokens, kPiece)),
               static_cast<unsigned>(ceil_div(slices, warps))},
      .block = {static_cast<unsigned>(warps * kWarp)}};
  for (int i = 0; i < count; ++i) {
    const Sums sums{.sorted = sorted_tokens(sorts[i], arguments.tokens),
                    .tokens = arguments.tokens,
                    .hidden = arguments.hidden,
                    .d_out = arguments.d_out,
                    .table = tables[i].gradient,
                    .rests = reinterpret_cast<float*>(workspace),
                    .scale = tables[i].scale,
                    .skipped_row = tables[i].skipped_row,
                    .whole = arguments.hidden % 4 == 0 &&
                             aligned_to_16(arguments.d_out, tables[i].gradient, workspace)};
    if (arguments.output_dtype == DType::bf16) {
      launch(stream, "embedding_backward", sum_runs_kernel<BFloat16>, config, sums);
    } else {
      launch(stream, "embedding_backward", sum_runs_kernel<float>, config, sums);
    }
    launch(stream, "embedding_backward, rests", add_rests_kernel, config, sums);
  }
}

}  // namespace engine::kernels::ENGINE_GPU
