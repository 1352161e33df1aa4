// The gradients of the norms.
//
// Each block goes over a run of rows and sums its part of the weight's gradient, in registers; a
// second kernel adds the parts in order. The runs depend on the shape alone, and so do the bits:
// not on the GPU. Rows that the registers of a block do not hold (row.h) take two kernels, one of
// which sums columns and one of which makes dx: they read dy and x twice.
#include "kernels/cuda/norm/row.h"

namespace engine::kernels::ENGINE_GPU {
namespace {

using namespace norm_rows;

// Two blocks on each of the 132 multiprocessors of an H100 or H200: one wave there. GPUs with fewer
// have a second, shorter one, in which each block has more of the memory's bandwidth to itself.
constexpr int64_t kMaxParts = 264;

int64_t rows_of_part(int64_t tokens, int64_t hidden) {
  const int64_t rows = row_shape(hidden).rows;
  const int64_t even = ceil_div(tokens, kMaxParts);
  return ceil_div(even > 4 * rows ? even : 4 * rows, rows) * rows;
}
int64_t num_parts(int64_t tokens, int64_t hidden) {
  return ceil_div(tokens, rows_of_part(tokens, hidden));
}

struct Backward {
  NormBackward norm;
  RowShape shape;
  bool whole;
  int64_t rows_of_part;
  float* weight_parts;  // [parts, hidden], or null
  float* bias_parts;
};

// Adds the columns that the rows of a block summed apart, in order, and stores them in `part`. In
// shared memory the first halves of all pieces come first: neighbouring threads, neighbouring
// banks.
template <int K>
ENGINE_DEVICE void store_part(float (&sum)[K][8], const RowShape& shape, float* part,
                              Shared<float> total) {
  // rows within a warp first
  for (int mask = kWarp / 2; mask >= shape.threads; mask /= 2) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[k][j] += shuffle_xor(sum[k][j], mask);
    }
  }
  const int width = shape.threads < kWarp ? kWarp : shape.threads;
  const int thread = static_cast<int>(threadIdx.x) % width;
  const int group = static_cast<int>(threadIdx.x) / width;
  const int groups = static_cast<int>(blockDim.x) / width;
  for (int turn = 0; turn < groups; ++turn) {
    if (group == turn && thread < shape.threads) {
#pragma unroll
      for (int k = 0; k < K; ++k) {
        const int piece = k * shape.threads + thread;
        if (piece < shape.pieces) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const Shared<float> to = total + (half * shape.pieces + piece) * 4;
            Vector<float, 4> v;
#pragma unroll
            for (int j = 0; j < 4; ++j) v[j] = sum[k][half * 4 + j];
            if (turn > 0) {
              const auto before = load_vector<4>(to);
#pragma unroll
              for (int j = 0; j < 4; ++j) v[j] = before[j] + v[j];
            }
            if (turn == groups - 1) {
              store_vector(part + piece * 8 + half * 4, v);
            } else {
              store_vector(to, v);
            }
          }
        }
      }
    }
    sync_threads();
  }
}

template <typename C, typename R>
__global__ void __launch_bounds__(kMaxThreads) norm_backward_kernel(const Backward p) {
  constexpr int K = kPieces;
  const NormBackward& norm = p.norm;
  const Kind kind(norm.kind);
  SharedMemory shared;
  RowSum row_sum(shared, p.shape.threads);
  const int threads = p.shape.threads, pieces = p.shape.pieces;
  const int thread = static_cast<int>(threadIdx.x) % threads;
  const int slot = static_cast<int>(threadIdx.x) / threads;
  const int64_t begin = blockIdx.x * p.rows_of_part;
  const int64_t end = begin + p.rows_of_part < norm.tokens ? begin + p.rows_of_part : norm.tokens;
  const float elements = static_cast<float>(norm.hidden);
  const int64_t hidden = norm.hidden;

  Eight<C> weight[K], dy[K], next_dy[K];
  Eight<R> x[K], next_x[K];
  float weight_sum[K][8] = {}, bias_sum[K][8] = {};
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const int piece = k * threads + thread;
    weight[k] = piece < pieces ? load_eight(static_cast<const C*>(norm.weight) + piece * 8, 8, true)
                               : zero_eight<C>();
  }
  const auto read = [&](auto& to, const auto* from, int64_t row) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      using T = std::remove_cvref_t<decltype(*from)>;
      const int piece = k * threads + thread;
      to[k] = piece < pieces && row < end
                  ? load_eight_once(from + row_start(norm, row) + piece * 8, 8, true)
                  : zero_eight<T>();
    }
  };
  // The row after is on its way while this one is worked on, as far as registers go.
  constexpr bool dy_ahead = sizeof(C) == 2, x_ahead = sizeof(R) == 2;
  const C* const all_dy = static_cast<const C*>(norm.dy);
  const R* const all_x = static_cast<const R*>(norm.x);
  if (dy_ahead) read(next_dy, all_dy, begin + slot);
  if (x_ahead) read(next_x, all_x, begin + slot);
  for (int64_t first = begin; first < end; first += p.shape.rows) {
    const int64_t row = first + slot;
    const bool active = row < end;
    if (!dy_ahead) read(next_dy, all_dy, row);
    if (!x_ahead) read(next_x, all_x, row);
    const float mean = kind.centred && active ? load(norm.mean + row) : 0.0f;
    const float rstd = active ? load(norm.rstd + row) : 0.0f;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      dy[k] = next_dy[k];
      x[k] = next_x[k];
    }
    if (dy_ahead) read(next_dy, all_dy, row + p.shape.rows);
    if (x_ahead) read(next_x, all_x, row + p.shape.rows);

    float sum_gx = 0.0f, sum_g = 0.0f;
#pragma unroll
    for (int k = 0; k < K; ++k) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float d = to_float(dy[k][j]), x_hat = (to_float(x[k][j]) - mean) * rstd;
        const float g = d * kind.gain(to_float(weight[k][j]));
        sum_gx += g * x_hat;
        sum_g += g;
        weight_sum[k][j] += d * x_hat;
        bias_sum[k][j] += d;
      }
    }
    row_sum(sum_gx, sum_g);
    const float mean_gx = sum_gx / elements, mean_g = kind.centred ? sum_g / elements : 0.0f;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int piece = k * threads + thread;
      if (!active || piece >= pieces) continue;
      const int64_t at = row_start(norm, row) + piece * 8;
      float dx[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float x_hat = (to_float(x[k][j]) - mean) * rstd;
        const float g = to_float(dy[k][j]) * kind.gain(to_float(weight[k][j]));
        dx[j] = rstd * (g - mean_g - x_hat * mean_gx);
      }
      if (norm.d_residual) {
        float d_residual[8];
        to_floats(d_residual,
                  load_eight_once(static_cast<const R*>(norm.d_residual) + at, 8, true));
#pragma unroll
        for (int j = 0; j < 8; ++j) dx[j] += d_residual[j];
      }
      store_eight(static_cast<R*>(norm.dx) + at, dx, 8, true);
    }
  }

  const Shared<float> total = shared.take<float>(p.shape.rows > 1 ? pieces * 8 : 0);
  const int64_t part = blockIdx.x * hidden;
  if (p.weight_parts) store_part(weight_sum, p.shape, p.weight_parts + part, total);
  if (p.bias_parts) store_part(bias_sum, p.shape, p.bias_parts + part, total);
}

// Any row, dx: one in a block.
template <typename C, typename R>
__global__ void __launch_bounds__(kMaxThreads) norm_backward_any_kernel(const Backward p) {
  const NormBackward& norm = p.norm;
  const Kind kind(norm.kind);
  SharedMemory shared;
  RowSum row_sum(shared, static_cast<int>(blockDim.x));
  const int64_t row = blockIdx.x, hidden = norm.hidden, start = row_start(norm, row);
  const float elements = static_cast<float>(hidden);
  const int64_t step = static_cast<int64_t>(blockDim.x) * 8, own = threadIdx.x * int64_t{8};
  const float mean = kind.centred ? load(norm.mean + row) : 0.0f;
  const float rstd = load(norm.rstd + row);

  float x_hat[8], g[8];
  const auto read = [&](int64_t i) {
    const int64_t valid = hidden - i;
    float weight[8];
    to_floats(g, load_eight(static_cast<const C*>(norm.dy) + start + i, valid, p.whole));
    to_floats(x_hat, load_eight(static_cast<const R*>(norm.x) + start + i, valid, p.whole));
    to_floats(weight, load_eight(static_cast<const C*>(norm.weight) + i, valid, p.whole));
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      x_hat[j] = (x_hat[j] - mean) * rstd;
      g[j] *= kind.gain(weight[j]);  // zero past the end
    }
  };
  float sum_gx = 0.0f, sum_g = 0.0f;
  for (int64_t i = own; i < hidden; i += step) {
    read(i);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      sum_gx += g[j] * x_hat[j];
      sum_g += g[j];
    }
  }
  row_sum(sum_gx, sum_g);
  const float mean_gx = sum_gx / elements, mean_g = kind.centred ? sum_g / elements : 0.0f;
  for (int64_t i = own; i < hidden; i += step) {
    const int64_t valid = hidden - i;
    read(i);
    float dx[8] = {};
    if (norm.d_residual) {
      to_floats(dx, load_eight(static_cast<const R*>(norm.d_residual) + start + i, valid, p.whole));
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) dx[j] += rstd * (g[j] - mean_g - x_hat[j] * mean_gx);
    store_eight(static_cast<R*>(norm.dx) + start + i, dx, valid, p.whole);
  }
}

// Any row, the parts of the weight's gradient: a thread has eight columns of the rows of a part.
constexpr int kColumnThreads = 128;
template <typename C, typename R>
__global__ void __launch_bounds__(kColumnThreads) norm_backward_columns_kernel(const Backward p) {
  const NormBackward& norm = p.norm;
  const Kind kind(norm.kind);
  const int64_t i = (static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x) * 8;
  const int64_t valid = norm.hidden - i;
  if (valid <= 0) return;
  const int64_t begin = blockIdx.x * p.rows_of_part;
  const int64_t end = begin + p.rows_of_part < norm.tokens ? begin + p.rows_of_part : norm.tokens;
  float weight_sum[8] = {}, bias_sum[8] = {};
#pragma unroll 4
  for (int64_t row = begin; row < end; ++row) {
    const float mean = kind.centred ? load(norm.mean + row) : 0.0f;
    const float rstd = load(norm.rstd + row);
    const int64_t start = row_start(norm, row) + i;
    float d[8], x[8];
    to_floats(d, load_eight(static_cast<const C*>(norm.dy) + start, valid, p.whole));
    to_floats(x, load_eight(static_cast<const R*>(norm.x) + start, valid, p.whole));
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      weight_sum[j] += d[j] * ((x[j] - mean) * rstd);
      bias_sum[j] += d[j];
    }
  }
  const int64_t to = blockIdx.x * norm.hidden + i;
  if (p.weight_parts) store_eight(p.weight_parts + to, weight_sum, valid, p.whole);
  if (p.bias_parts) store_eight(p.bias_parts + to, bias_sum, valid, p.whole);
}

// total[column] += the sum of the parts, in order: warp w adds parts w, w + 8, ..., then the eight
// sums are added. blockIdx.y: the weight, then the bias.
constexpr int kAddingWarps = 8;
struct AddParts {
  const float* parts[2];
  float* total[2];
  int64_t num_parts, hidden;
};
__global__ void __launch_bounds__(kAddingWarps* kWarp) add_parts_kernel(const AddParts p) {
  const float* const parts = blockIdx.y == 0 ? p.parts[0] : p.parts[1];
  float* const total = blockIdx.y == 0 ? p.total[0] : p.total[1];
  if (!parts) return;
  SharedMemory shared;
  const Shared<float> sums = shared.take<float>(kAddingWarps * kWarp);
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + lane_index();
  float sum = 0.0f;
  if (column < p.hidden) {
#pragma unroll 4
    for (int64_t part = warp_index(); part < p.num_parts; part += kAddingWarps) {
      sum += load(parts + part * p.hidden + column);
    }
  }
  store(sums + static_cast<int>(threadIdx.x), sum);
  sync_threads();
  if (warp_index() > 0 || column >= p.hidden) return;
  for (int w = 1; w < kAddingWarps; ++w) sum += load(sums + w * kWarp + lane_index());
  store(total + column, load(total + column) + sum);
}

}  // namespace

size_t norm_backward_workspace(int64_t tokens, int64_t hidden) {
  // parts of the weight's and of the bias' gradient
  return static_cast<size_t>(2 * num_parts(tokens, hidden) * hidden) * sizeof(float);
}

void norm_backward(Stream stream, const NormBackward& arguments) {
  require(arguments.heads == 0 || arguments.d_residual == nullptr, "norm: heads with d_residual");
  if (arguments.tokens == 0 || arguments.hidden == 0) return;
  const int64_t parts = num_parts(arguments.tokens, arguments.hidden);
  float* const workspace = static_cast<float*>(arguments.workspace);
  Backward backward{arguments, row_shape(arguments.hidden)};
  backward.rows_of_part = rows_of_part(arguments.tokens, arguments.hidden);
  if (arguments.d_weight) backward.weight_parts = workspace;
  if (arguments.d_bias) backward.bias_parts = workspace + parts * arguments.hidden;
  backward.whole = arguments.hidden % 8 == 0 && arguments.token_stride % 8 == 0 &&
                   aligned_to_16(arguments.dy, arguments.d_residual, arguments.x, arguments.weight,
                                 arguments.dx, arguments.workspace);
  const RowShape& shape = backward.shape;
  const bool resident = shape.resident && backward.whole;
  const bool any_weights = arguments.d_weight || arguments.d_bias;
  with_types(arguments.compute_dtype, arguments.residual_dtype, [&](auto* c, auto* r) {
    using C = std::remove_pointer_t<decltype(c)>;
    using R = std::remove_pointer_t<decltype(r)>;
    if (resident) {
      launch(stream, "norm_backward", norm_backward_kernel<C, R>,
             {.grid = {static_cast<unsigned>(parts)},
              .block = {shape.block()},
              .shared_bytes = SharedSize()
                                  .take<float>(4 * kMaxWarps)
                                  .take<float>(shape.rows > 1 ? shape.pieces * int64_t{8} : 0)
                                  .bytes()},
             backward);
      return;
    }
    const unsigned threads = any_block(arguments.hidden);
    if (any_weights) {  // before dx, which may be dy
      const unsigned own = threads < kColumnThreads ? threads : kColumnThreads;
      launch(stream, "norm_backward, columns", norm_backward_columns_kernel<C, R>,
             {.grid = {static_cast<unsigned>(parts),
                       static_cast<unsigned>(ceil_div<int64_t>(shape.pieces, own))},
              .block = {own}},
             backward);
    }
    launch(stream, "norm_backward, dx", norm_backward_any_kernel<C, R>,
           {.grid = {static_cast<unsigned>(arguments.tokens)},
            .block = {threads},
            .shared_bytes = row_sum_shared()},
           backward);
  });
  if (!any_weights) return;
  const AddParts add{{backward.weight_parts, backward.bias_parts},
                     {arguments.d_weight, arguments.d_bias},
                     parts,
                     arguments.hidden};
  launch(stream, "norm_backward, sum of parts", add_parts_kernel,
         {.grid = {static_cast<unsigned>(ceil_div<int64_t>(arguments.hidden, kWarp)), 2},
          .block = {kAddingWarps * kWarp},
          .shared_bytes = kAddingWarps * kWarp * sizeof(float)},
         add);
}

}  // namespace engine::kernels::ENGINE_GPU
