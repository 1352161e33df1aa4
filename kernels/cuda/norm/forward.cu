// The norms, fused with the residual addition before them.
#include "kernels/cuda/norm/row.h"

namespace engine::kernels::ENGINE_GPU {
namespace {

using namespace norm_rows;

struct Forward {
  NormForward norm;
  RowShape shape;
  bool whole;  // every piece
};

// C: compute dtype, R: residual dtype. All loads of a thread are on their way before the first is
// needed, the weights among them.
template <typename C, typename R>
__global__ void __launch_bounds__(kMaxThreads) norm_forward_kernel(const Forward p) {
  constexpr int K = kPieces;
  const NormForward& norm = p.norm;
  const Kind kind(norm.kind);
  SharedMemory shared;
  RowSum row_sum(shared, p.shape.threads);
  const int threads = p.shape.threads, pieces = p.shape.pieces;
  const int thread = static_cast<int>(threadIdx.x) % threads;
  const int slot = static_cast<int>(threadIdx.x) / threads;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * p.shape.rows + slot;
  const bool active = row < norm.tokens;
  const int64_t start = row_start(norm, row);

  // What does not exist is zero.
  const auto read = [&](auto& to, const auto* from) {
    using T = std::remove_cvref_t<decltype(*from)>;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int piece = k * threads + thread;
      to[k] = active && piece < pieces ? load_eight_once(from + start + piece * 8, 8, true)
                                       : zero_eight<T>();
    }
  };
  Eight<R> x[K];
  Eight<C> delta[K], weight[K];
  read(x, static_cast<const R*>(norm.x));
  if (norm.delta) read(delta, static_cast<const C*>(norm.delta));
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const int piece = k * threads + thread;
    weight[k] = piece < pieces ? load_eight(static_cast<const C*>(norm.weight) + piece * 8, 8, true)
                               : zero_eight<C>();
  }

  const bool keeps = norm.residual_out && (norm.delta || norm.residual_out != norm.x);
  float r[K][8], sum = 0.0f;
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const int piece = k * threads + thread;
    to_floats(r[k], x[k]);
    if (norm.delta) {
#pragma unroll
      for (int j = 0; j < 8; ++j) r[k][j] = rounded_to<R>(r[k][j] + to_float(delta[k][j]));
    }
    if (keeps && active && piece < pieces) {
      store_eight(static_cast<R*>(norm.residual_out) + start + piece * 8, r[k], 8, true);
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) sum += kind.centred ? r[k][j] : r[k][j] * r[k][j];
  }
  sum = row_sum(sum);

  const float elements = static_cast<float>(norm.hidden);
  float mean = 0.0f;
  if (kind.centred) {
    mean = sum / elements;
    sum = 0.0f;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      if (k * threads + thread >= pieces) continue;
#pragma unroll
      for (int j = 0; j < 8; ++j) sum += (r[k][j] - mean) * (r[k][j] - mean);
    }
    sum = row_sum(sum);
  }
  const float rstd = reciprocal_sqrt(sum / elements + norm.eps);
  if (!active) return;
  if (thread == 0) {
    if (norm.mean && kind.centred) store(norm.mean + row, mean);
    if (norm.rstd) store(norm.rstd + row, rstd);
  }
#pragma unroll
  for (int k = 0; k < K; ++k) {
    const int piece = k * threads + thread;
    if (piece >= pieces) continue;
    float y[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      float normalised = (r[k][j] - mean) * rstd;
      if (kind.rounds_normalised) normalised = rounded_to<C>(normalised);
      y[j] = kind.gain(to_float(weight[k][j])) * normalised;
    }
    if (kind.centred && norm.bias) {
      float bias[8];
      to_floats(bias, load_eight(static_cast<const C*>(norm.bias) + piece * 8, 8, true));
#pragma unroll
      for (int j = 0; j < 8; ++j) y[j] += bias[j];
    }
    store_eight(static_cast<C*>(norm.y) + start + piece * 8, y, 8, true);
  }
}

// Any row, one per block, read again for every pass.
template <typename C, typename R>
__global__ void __launch_bounds__(kMaxThreads) norm_forward_any_kernel(const Forward p) {
  const NormForward& norm = p.norm;
  const Kind kind(norm.kind);
  SharedMemory shared;
  RowSum row_sum(shared, static_cast<int>(blockDim.x));
  const int64_t hidden = norm.hidden, start = row_start(norm, blockIdx.x);
  const int64_t step = static_cast<int64_t>(blockDim.x) * 8, own = threadIdx.x * int64_t{8};
  const bool keeps = norm.residual_out && (norm.delta || norm.residual_out != norm.x);
  const R* const stored = static_cast<const R*>(keeps ? norm.residual_out : norm.x) + start;

  float r[8], sum = 0.0f;
  for (int64_t i = own; i < hidden; i += step) {
    const int64_t valid = hidden - i;
    to_floats(r, load_eight(static_cast<const R*>(norm.x) + start + i, valid, p.whole));
    if (norm.delta) {
      float delta[8];
      to_floats(delta, load_eight(static_cast<const C*>(norm.delta) + start + i, valid, p.whole));
#pragma unroll
      for (int j = 0; j < 8; ++j) r[j] = rounded_to<R>(r[j] + delta[j]);
    }
    if (keeps) store_eight(static_cast<R*>(norm.residual_out) + start + i, r, valid, p.whole);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum += kind.centred ? r[j] : r[j] * r[j];
  }
  sum = row_sum(sum);

  const float elements = static_cast<float>(hidden);
  float mean = 0.0f;
  if (kind.centred) {
    mean = sum / elements;
    sum = 0.0f;
    for (int64_t i = own; i < hidden; i += step) {
      to_floats(r, load_eight(stored + i, hidden - i, p.whole));
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float difference = i + j < hidden ? r[j] - mean : 0.0f;
        sum += difference * difference;
      }
    }
    sum = row_sum(sum);
  }
  const float rstd = reciprocal_sqrt(sum / elements + norm.eps);
  if (threadIdx.x == 0) {
    if (norm.mean && kind.centred) store(norm.mean + blockIdx.x, mean);
    if (norm.rstd) store(norm.rstd + blockIdx.x, rstd);
  }
  for (int64_t i = own; i < hidden; i += step) {
    const int64_t valid = hidden - i;
    float weight[8], bias[8] = {}, y[8];
    to_floats(r, load_eight(stored + i, valid, p.whole));
    to_floats(weight, load_eight(static_cast<const C*>(norm.weight) + i, valid, p.whole));
    if (kind.centred && norm.bias) {
      to_floats(bias, load_eight(static_cast<const C*>(norm.bias) + i, valid, p.whole));
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      float normalised = (r[j] - mean) * rstd;
      if (kind.rounds_normalised) normalised = rounded_to<C>(normalised);
      y[j] = kind.gain(weight[j]) * normalised + bias[j];
    }
    store_eight(static_cast<C*>(norm.y) + start + i, y, valid, p.whole);
  }
}

}  // namespace

void norm_forward(Stream stream, const NormForward& arguments) {
  require(arguments.delta == nullptr || arguments.residual_out != nullptr,
          "norm: delta without residual_out");
  require(arguments.heads == 0 || arguments.residual_out == nullptr,
          "norm: heads with residual_out");
  if (arguments.tokens == 0 || arguments.hidden == 0) return;
  const bool whole = arguments.hidden % 8 == 0 && arguments.token_stride % 8 == 0 &&
                     aligned_to_16(arguments.x, arguments.delta, arguments.residual_out,
                                   arguments.weight, arguments.bias, arguments.y);
  const RowShape shape = row_shape(arguments.hidden);
  const Forward forward{arguments, shape, whole};
  const bool resident = shape.resident && whole;
  LaunchConfig config{
      .grid = {static_cast<unsigned>(ceil_div<int64_t>(arguments.tokens, shape.rows))},
      .block = {shape.block()},
      .shared_bytes = row_sum_shared()};
  if (!resident) {
    config.grid = {static_cast<unsigned>(arguments.tokens)};
    config.block = {any_block(arguments.hidden)};
  }
  with_types(arguments.compute_dtype, arguments.residual_dtype, [&](auto* c, auto* r) {
    using C = std::remove_pointer_t<decltype(c)>;
    using R = std::remove_pointer_t<decltype(r)>;
    launch(stream, "norm_forward",
           resident ? norm_forward_kernel<C, R> : norm_forward_any_kernel<C, R>, config, forward);
  });
}

}  // namespace engine::kernels::ENGINE_GPU
