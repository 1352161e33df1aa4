// LayerNorm and RMSNorm with the residual addition before them; bound by memory.
//
// Bytes per element in bf16: forward 4, or 8 with delta (x and delta read, residual and y written);
// backward 6, or 8 with d_residual (dy and x read, dx written). A row stays in the registers of its
// threads between the statistics and the result, so nothing is read twice; weights come from L1.
//
// Two variants of each kernel. `resident`: rows that fit the registers and whose pieces of eight
// elements are all whole and aligned: every model. The other takes rows of any length and
// alignment: it walks a row in several steps and reads it again from L1 or L2 for every pass.
#include <type_traits>

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device/eight.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/math.h"
#include "kernels/cuda/device/warp.h"

namespace engine::kernels::ENGINE_GPU {
namespace {

constexpr int kBlock = 256;       // threads, where rows are short enough
constexpr int kMaxThreads = 512;  // of a row: 128 registers each
constexpr int kMaxWarps = kMaxThreads / kWarp;
constexpr int kForwardPieces = 4;   // of eight elements, per thread
constexpr int kBackwardPieces = 2;  // the weight's gradient takes as many registers as the row

// How rows are spread over threads. Rows of up to 32 threads lie within a warp: a power of two.
struct RowShape {
  int pieces;   // ceil(hidden / 8)
  int threads;  // of a row
  int rows;     // of a block at the same time
  bool resident;

  unsigned block() const { return static_cast<unsigned>(rows * threads); }  // whole warps
};

RowShape row_shape(int64_t hidden, int pieces_per_thread) {
  RowShape shape{.pieces = static_cast<int>(ceil_div<int64_t>(hidden, 8))};
  if (shape.pieces <= kWarp * pieces_per_thread) {
    shape.threads = 1;
    while (shape.threads < shape.pieces && shape.threads < kWarp) shape.threads *= 2;
  } else {
    const int wanted = ceil_div(ceil_div(shape.pieces, pieces_per_thread), kWarp) * kWarp;
    shape.threads = wanted < kMaxThreads ? wanted : kMaxThreads;
  }
  shape.rows = shape.threads < kBlock ? kBlock / shape.threads : 1;
  shape.resident = shape.pieces <= shape.threads * pieces_per_thread;
  return shape;
}

// Sums over the threads of a row, to all of them. Called by the whole block: its rows go in step.
class RowSum {
 public:
  ENGINE_DEVICE RowSum(SharedMemory& shared, int threads)
      : scratch_(shared.take<float>(4 * kMaxWarps)), threads_(threads) {}

  ENGINE_DEVICE float operator()(float value) {
    float other = 0.0f;
    (*this)(value, other);
    return value;
  }
  ENGINE_DEVICE void operator()(float& a, float& b) {
    for (int mask = (threads_ < kWarp ? threads_ : kWarp) / 2; mask > 0; mask /= 2) {
      a += shuffle_xor(a, mask);
      b += shuffle_xor(b, mask);
    }
    if (threads_ <= kWarp) return;
    // Two halves in turn: one barrier per sum. A warp that is late reads its half before the next
    // barrier, and nobody writes to it before the one after.
    const Shared<float> half = scratch_ + turn_ * 2 * kMaxWarps;
    turn_ ^= 1;
    if (lane_index() == 0) {
      store(half + warp_index(), a);
      store(half + kMaxWarps + warp_index(), b);
    }
    sync_threads();
    const int warps = threads_ / kWarp, first = warp_index() / warps * warps;
    a = b = 0.0f;
    for (int w = first; w < first + warps; ++w) {
      a += load(half + w);
      b += load(half + kMaxWarps + w);
    }
  }

 private:
  Shared<float> scratch_;
  int threads_;
  int turn_ = 0;
};
size_t row_sum_shared() {
  return SharedSize().take<float>(4 * kMaxWarps).bytes();
}

struct Forward {
  NormForward norm;
  RowShape shape;
  bool whole;  // every piece
};

struct Kind {
  bool centred, offset_gain, rounds_normalised;
  ENGINE_DEVICE explicit Kind(NormKind kind)
      : centred(kind == NormKind::layer_norm),
        offset_gain(kind == NormKind::rms_gemma),
        rounds_normalised(kind == NormKind::rms_llama || kind == NormKind::rms_t5) {}
  ENGINE_DEVICE float gain(float weight) const { return offset_gain ? 1.0f + weight : weight; }
};

// C: compute dtype, R: residual dtype.
template <typename C, typename R, bool resident>
__global__ void __launch_bounds__(kMaxThreads) norm_forward_kernel(const Forward p) {
  constexpr int K = kForwardPieces;
  const NormForward& norm = p.norm;
  const Kind kind(norm.kind);
  SharedMemory shared;
  RowSum row_sum(shared, p.shape.threads);
  const int threads = p.shape.threads, pieces = p.shape.pieces;
  const int thread = static_cast<int>(threadIdx.x) % threads;
  const int slot = static_cast<int>(threadIdx.x) / threads;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * p.shape.rows + slot;
  const bool active = row < norm.tokens;
  const int64_t start = row * norm.hidden;
  const bool whole = resident || p.whole;
  const bool keeps = norm.residual_out && (norm.delta || norm.residual_out != norm.x);
  const R* const stored = static_cast<const R*>(keeps ? norm.residual_out : norm.x);

  // body(k, i): piece k of this thread, from element i on
  const auto for_pieces = [&](int first, auto body) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int piece = first + k * threads + thread;
      if (active && piece < pieces) body(k, static_cast<int64_t>(piece) * 8);
    }
  };
  const int step = K * threads;
  float r[K][8];  // resident: the row; else the pieces of one step

  float sum = 0.0f;
  for (int first = 0; first < (resident ? 1 : pieces); first += step) {
    for_pieces(first, [&](int k, int64_t i) {
      const int64_t valid = norm.hidden - i;
      to_floats(r[k], load_eight_once(static_cast<const R*>(norm.x) + start + i, valid, whole));
      if (norm.delta) {
        float d[8];
        to_floats(d, load_eight_once(static_cast<const C*>(norm.delta) + start + i, valid, whole));
#pragma unroll
        for (int j = 0; j < 8; ++j) r[k][j] = rounded_to<R>(r[k][j] + d[j]);
      }
      if (keeps) store_eight(static_cast<R*>(norm.residual_out) + start + i, r[k], valid, whole);
#pragma unroll
      for (int j = 0; j < 8; ++j) sum += kind.centred ? r[k][j] : r[k][j] * r[k][j];
    });
  }
  sum = row_sum(sum);

  const auto read_again = [&](int k, int64_t i) {
    if constexpr (!resident)
      to_floats(r[k], load_eight(stored + start + i, norm.hidden - i, whole));
  };
  const float elements = static_cast<float>(norm.hidden);
  float mean = 0.0f;
  if (kind.centred) {
    mean = sum / elements;
    sum = 0.0f;
    for (int first = 0; first < (resident ? 1 : pieces); first += step) {
      for_pieces(first, [&](int k, int64_t i) {
        read_again(k, i);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const float difference = i + j < norm.hidden ? r[k][j] - mean : 0.0f;
          sum += difference * difference;
        }
      });
    }
    sum = row_sum(sum);
  }
  const float rstd = reciprocal_sqrt(sum / elements + norm.eps);
  if (active && thread == 0) {
    if (norm.mean && kind.centred) store(norm.mean + row, mean);
    if (norm.rstd) store(norm.rstd + row, rstd);
  }

  for (int first = 0; first < (resident ? 1 : pieces); first += step) {
    for_pieces(first, [&](int k, int64_t i) {
      const int64_t valid = norm.hidden - i;
      read_again(k, i);
      float weight[8], y[8];
      to_floats(weight, load_eight(static_cast<const C*>(norm.weight) + i, valid, whole));
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        float normalised = (r[k][j] - mean) * rstd;
        if (kind.rounds_normalised) normalised = rounded_to<C>(normalised);
        y[j] = kind.gain(weight[j]) * normalised;
      }
      if (kind.centred && norm.bias) {
        float bias[8];
        to_floats(bias, load_eight(static_cast<const C*>(norm.bias) + i, valid, whole));
#pragma unroll
        for (int j = 0; j < 8; ++j) y[j] += bias[j];
      }
      store_eight(static_cast<C*>(norm.y) + start + i, y, valid, whole);
    });
  }
}

// --- Backward ----------------------------------------------------------------------------------
// Each block goes over a run of rows and sums its part of the weight's gradient, in registers; a
// second kernel adds the parts in order. The runs depend on the shape alone.

constexpr int64_t kMaxParts = 264;  // two blocks on each of 132 multiprocessors

int64_t rows_of_part(int64_t tokens, int64_t hidden) {
  const int64_t rows = row_shape(hidden, kBackwardPieces).rows;
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

// Adds the columns that the rows of a block summed apart, in order, and stores them in `part`.
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
            const Shared<float> to = total + piece * 8 + half * 4;
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
  constexpr int K = kBackwardPieces;
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
                  ? load_eight_once(from + row * hidden + piece * 8, 8, true)
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
      const int64_t at = row * hidden + piece * 8;
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

// Any row: one at a time in a block, its parts of the weight's gradient in memory.
template <typename C, typename R>
__global__ void __launch_bounds__(kMaxThreads) norm_backward_any_kernel(const Backward p) {
  const NormBackward& norm = p.norm;
  const Kind kind(norm.kind);
  SharedMemory shared;
  RowSum row_sum(shared, static_cast<int>(blockDim.x));
  const int64_t hidden = norm.hidden;
  const int64_t begin = blockIdx.x * p.rows_of_part;
  const int64_t end = begin + p.rows_of_part < norm.tokens ? begin + p.rows_of_part : norm.tokens;
  const float elements = static_cast<float>(hidden);
  const int64_t step = static_cast<int64_t>(blockDim.x) * 8, own = threadIdx.x * int64_t{8};

  for (int64_t row = begin; row < end; ++row) {
    const float mean = kind.centred ? load(norm.mean + row) : 0.0f;
    const float rstd = load(norm.rstd + row);
    float d[8], x_hat[8], g[8];
    const auto read = [&](int64_t i) {
      const int64_t valid = hidden - i;
      float weight[8];
      to_floats(d, load_eight(static_cast<const C*>(norm.dy) + row * hidden + i, valid, p.whole));
      to_floats(x_hat,
                load_eight(static_cast<const R*>(norm.x) + row * hidden + i, valid, p.whole));
      to_floats(weight, load_eight(static_cast<const C*>(norm.weight) + i, valid, p.whole));
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        x_hat[j] = (x_hat[j] - mean) * rstd;
        g[j] = d[j] * kind.gain(weight[j]);  // zero past the end
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
        to_floats(dx, load_eight(static_cast<const R*>(norm.d_residual) + row * hidden + i, valid,
                                 p.whole));
      }
#pragma unroll
      for (int j = 0; j < 8; ++j) dx[j] += rstd * (g[j] - mean_g - x_hat[j] * mean_gx);
      store_eight(static_cast<R*>(norm.dx) + row * hidden + i, dx, valid, p.whole);
      const auto add = [&](float* parts, auto term) {
        if (!parts) return;
        float* const to = parts + blockIdx.x * hidden + i;
        float sum[8] = {};
        if (row > begin) to_floats(sum, load_eight(to, valid, p.whole));
#pragma unroll
        for (int j = 0; j < 8; ++j) sum[j] += term(j);
        store_eight(to, sum, valid, p.whole);
      };
      add(p.weight_parts, [&](int j) { return d[j] * x_hat[j]; });
      add(p.bias_parts, [&](int j) { return d[j]; });
    }
  }
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

// body(C, R): pointers that carry the types.
template <typename Body>
void with_types(DType compute, DType residual, const Body& body) {
  if (compute == DType::f32 && residual == DType::f32) {
    body(static_cast<float*>(nullptr), static_cast<float*>(nullptr));
  } else if (compute == DType::bf16 && residual == DType::f32) {
    body(static_cast<BFloat16*>(nullptr), static_cast<float*>(nullptr));
  } else if (compute == DType::bf16 && residual == DType::bf16) {
    body(static_cast<BFloat16*>(nullptr), static_cast<BFloat16*>(nullptr));
  } else {
    require(false,
            "norm: compute and residual must be f32 and f32, bf16 and f32, or bf16 and bf16");
  }
}

}  // namespace

void norm_forward(Stream stream, const NormForward& arguments) {
  require(arguments.delta == nullptr || arguments.residual_out != nullptr,
          "norm: delta without residual_out");
  if (arguments.tokens == 0 || arguments.hidden == 0) return;
  const bool whole = arguments.hidden % 8 == 0 &&
                     aligned_to_16(arguments.x, arguments.delta, arguments.residual_out,
                                   arguments.weight, arguments.bias, arguments.y);
  const RowShape shape = row_shape(arguments.hidden, kForwardPieces);
  const Forward forward{arguments, shape, whole};
  const LaunchConfig config{
      .grid = {static_cast<unsigned>(ceil_div<int64_t>(arguments.tokens, shape.rows))},
      .block = {shape.block()},
      .shared_bytes = row_sum_shared()};
  with_types(arguments.compute_dtype, arguments.residual_dtype, [&](auto* c, auto* r) {
    using C = std::remove_pointer_t<decltype(c)>;
    using R = std::remove_pointer_t<decltype(r)>;
    if (shape.resident && whole) {
      launch(stream, "norm_forward", norm_forward_kernel<C, R, true>, config, forward);
    } else {
      launch(stream, "norm_forward", norm_forward_kernel<C, R, false>, config, forward);
    }
  });
}

size_t norm_backward_workspace(int64_t tokens, int64_t hidden) {
  // parts of the weight's and of the bias' gradient
  return static_cast<size_t>(2 * num_parts(tokens, hidden) * hidden) * sizeof(float);
}

void norm_backward(Stream stream, const NormBackward& arguments) {
  if (arguments.tokens == 0 || arguments.hidden == 0) return;
  const int64_t parts = num_parts(arguments.tokens, arguments.hidden);
  float* const workspace = static_cast<float*>(arguments.workspace);
  Backward backward{arguments, row_shape(arguments.hidden, kBackwardPieces)};
  backward.rows_of_part = rows_of_part(arguments.tokens, arguments.hidden);
  if (arguments.d_weight) backward.weight_parts = workspace;
  if (arguments.d_bias) backward.bias_parts = workspace + parts * arguments.hidden;
  backward.whole = arguments.hidden % 8 == 0 &&
                   aligned_to_16(arguments.dy, arguments.d_residual, arguments.x, arguments.weight,
                                 arguments.dx, arguments.workspace);
  const RowShape& shape = backward.shape;
  const bool resident = shape.resident && backward.whole;
  LaunchConfig config{.grid = {static_cast<unsigned>(parts)}, .block = {shape.block()}};
  if (!resident) config.block = {static_cast<unsigned>(ceil_div(shape.threads, kWarp) * kWarp)};
  config.shared_bytes = SharedSize()
                            .take<float>(4 * kMaxWarps)
                            .take<float>(resident && shape.rows > 1 ? shape.pieces * int64_t{8} : 0)
                            .bytes();
  with_types(arguments.compute_dtype, arguments.residual_dtype, [&](auto* c, auto* r) {
    using C = std::remove_pointer_t<decltype(c)>;
    using R = std::remove_pointer_t<decltype(r)>;
    launch(stream, "norm_backward",
           resident ? norm_backward_kernel<C, R> : norm_backward_any_kernel<C, R>, config,
           backward);
  });
  if (!arguments.d_weight && !arguments.d_bias) return;
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
