// Global gradient norm and AdamW, each over all tensors of a model at once; bound by memory.
//
// Bytes per parameter: norm 4; AdamW 32 (master, gradient, m and v read and written; the gradient
// as zero), 2 more with a bf16 copy; 28 without a master. One billion parameters at 4.2 TB/s: 1 ms
// and 8 ms, 6.7 ms without a master.
//
// The tensors are cut into pieces of fixed size; a block finds its tensor by bisection of the table
// of first pieces, which is uploaded once.
#include <cmath>
#include <vector>

#include "kernels/api/dropout.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device/eight.h"  // aligned_to_16
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/math.h"
#include "kernels/cuda/device/warp.h"

namespace engine::kernels::ENGINE_GPU {
namespace {

constexpr int kThreads = 256;
// A thread takes four neighbouring elements, at several places: what a warp reads with one
// instruction is 512 bytes in a row. (Eight neighbours would leave half of every sector to the next
// instruction, and reads past L1 would fetch it twice.)
constexpr int kStride = 4 * kThreads;
constexpr int64_t kNormPiece = 1 << 15, kUpdatePiece = 1 << 13;  // elements

// A tensor as the device sees it.
struct Segment {
  TensorSegment tensor;
  int64_t first_norm_piece, first_update_piece;
  int32_t whole;  // all arrays begin on a boundary of 16 bytes
};

struct Pieces {
  int segments = 0;  // that have any: empty tensors are not in the table
  int64_t norm = 0, update = 0;
};
Pieces count_pieces(const TensorSegment* segments, int num_segments) {
  Pieces pieces;
  for (int s = 0; s < num_segments; ++s) {
    if (segments[s].count == 0) continue;
    ++pieces.segments;
    pieces.norm += ceil_div(segments[s].count, kNormPiece);
    pieces.update += ceil_div(segments[s].count, kUpdatePiece);
  }
  return pieces;
}

template <typename T>
ENGINE_DEVICE T field(const T& of_device) {
  return load(&of_device);
}

// The segment that `piece` belongs to, by its member `first`.
ENGINE_DEVICE const Segment* find_segment(const Segment* segments, int count, int64_t piece,
                                          int64_t Segment::*first) {
  int low = 0, high = count;  // first of low <= piece < first of high
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (field(segments[middle].*first) <= piece) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return segments + low;
}

// Four elements of fp32; `whole`: all exist and the address is aligned to 16. Else the first
// `valid`.
ENGINE_DEVICE void load_four(float (&x)[4], const float* p, int64_t valid, bool whole) {
  if (whole) {
    const auto vector = load_once<4>(p);
#pragma unroll
    for (int j = 0; j < 4; ++j) x[j] = vector[j];
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) x[j] = j < valid ? load(p + j) : 0.0f;
  }
}
ENGINE_DEVICE void load_four(float (&x)[4], const BFloat16* p, int64_t valid, bool whole) {
  if (whole) {
    const auto pair = load_vector<2>(reinterpret_cast<const uint32_t*>(p));
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      x[2 * j] = low_bf16(pair[j]);
      x[2 * j + 1] = high_bf16(pair[j]);
    }
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) x[j] = j < valid ? to_float(load(p + j)) : 0.0f;
  }
}
// What nobody reads before the next step.
ENGINE_DEVICE void store_four(float* p, const float (&x)[4], int64_t valid, bool whole) {
  if (whole) {
    store_streaming(p, Vector<float, 4>{{x[0], x[1], x[2], x[3]}});
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j < valid) store(p + j, x[j]);
    }
  }
}
// Rounded. The next forward reads these: they may stay in L2.
ENGINE_DEVICE void store_four(BFloat16* p, const float (&x)[4], int64_t valid, bool whole) {
  if (whole) {
    store_vector(reinterpret_cast<uint32_t*>(p),
                 Vector<uint32_t, 2>{{pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3])}});
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j < valid) store(p + j, from_float<BFloat16>(x[j]));
    }
  }
}

// Bits of bf16, as they are.
ENGINE_DEVICE void store_four(BFloat16* p, const uint16_t (&bits)[4], int64_t valid, bool whole) {
  auto* const to = reinterpret_cast<uint16_t*>(p);
  if (whole) {
    store_vector(to, Vector<uint16_t, 4>{{bits[0], bits[1], bits[2], bits[3]}});
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j < valid) store(to + j, bits[j]);
    }
  }
}

// --- Norm --------------------------------------------------------------------------------------

struct Norm {
  const Segment* segments;
  int num_segments;
  double* parts;  // a sum of squares per piece
  int64_t num_parts;
  float max_norm;
  float* out;
  float* stop;  // or null
};

ENGINE_DEVICE bool is_finite(float x) {
  return fabsf(x) <= 3.402823466e38f;  // false for NaN
}

__global__ void __launch_bounds__(kThreads) sum_of_squares_kernel(const Norm p) {
  SharedMemory shared;
  const Shared<double> scratch = shared.take<double>(kThreads / kWarp);
  const int64_t piece = blockIdx.x;
  const Segment* const segment =
      find_segment(p.segments, p.num_segments, piece, &Segment::first_norm_piece);
  const float* const grad = field(segment->tensor.grad);
  const int64_t count = field(segment->tensor.count);
  const bool aligned = field(segment->whole);
  const int64_t begin = (piece - field(segment->first_norm_piece)) * kNormPiece;
  const int64_t end = begin + kNormPiece < count ? begin + kNormPiece : count;
  double sum = 0.0;
#pragma unroll 8
  for (int64_t i = begin + threadIdx.x * int64_t{4}; i < end; i += kStride) {
    float x[4];
    load_four(x, grad + i, end - i, aligned && i + 4 <= end);
#pragma unroll
    for (int j = 0; j < 4; ++j) sum += static_cast<double>(x[j]) * static_cast<double>(x[j]);
  }
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) store(p.parts + piece, sum);
}

__global__ void __launch_bounds__(1024) finish_norm_kernel(const Norm p) {
  SharedMemory shared;
  const Shared<double> scratch = shared.take<double>(kWarp);
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < p.num_parts; i += blockDim.x) sum += load(p.parts + i);
  sum = block_sum(sum, scratch);
  if (threadIdx.x != 0) return;
  const double norm = sqrt(sum);
  const auto rounded = static_cast<float>(norm);
  const double coefficient = static_cast<double>(p.max_norm) / (norm + 1e-6);
  store(p.out, rounded);
  if (p.stop && !is_finite(rounded)) store(p.stop, 1.0f);
  // written so that a NaN norm gives a NaN coefficient
  store(p.out + 1,
        p.max_norm <= 0.0f || coefficient >= 1.0 ? 1.0f : static_cast<float>(coefficient));
}

// The losses of a micro-batch: a few thousand numbers.
__global__ void __launch_bounds__(kThreads) flag_nonfinite_kernel(const FlagNonfinite p) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  bool finite = true;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < p.count;
       i += step) {
    finite = finite && is_finite(load(p.x + i));
  }
  if (!finite) store(p.flag, 1.0f);  // whoever finds one: all write the same
}

// --- AdamW -------------------------------------------------------------------------------------

struct Update {
  const Segment* segments;
  int num_segments;
  double lr;
  // of the step, computed in fp64
  float beta1, one_minus_beta1, beta2, one_minus_beta2;
  float step_size;       // lr / (1 - β1ᵗ)
  float inverse_scale2;  // 1 / sqrt(1 - β2ᵗ)
  float eps;
  const float* grad_scale;  // or null
  const float* stop;        // or null
  bool zero_grad;
  uint64_t rounding_key;
};

// masters: parameters are fp32, with or without a bf16 copy. Otherwise bf16, rounded
// stochastically.
template <bool masters>
__global__ void __launch_bounds__(kThreads) adamw_kernel(const Update p) {
  const int64_t piece = blockIdx.x;
  const Segment* const segment =
      find_segment(p.segments, p.num_segments, piece, &Segment::first_update_piece);
  float* const master = field(segment->tensor.master);
  float* const grad = field(segment->tensor.grad);
  float* const all_m = field(segment->tensor.m);
  float* const all_v = field(segment->tensor.v);
  BFloat16* const value = field(segment->tensor.value_bf16);
  const int64_t count = field(segment->tensor.count);
  // what the update multiplies the parameter by: 1 - lr · weight decay
  const auto decay = static_cast<float>(rounded_sum(
      1.0, -rounded_product(p.lr, static_cast<double>(field(segment->tensor.weight_decay)))));
  const uint64_t first_draw =
      masters ? 0 : static_cast<uint64_t>(field(segment->tensor.first_index)) / 4;
  const bool aligned = field(segment->whole);
  const float scale = p.grad_scale ? load(p.grad_scale) : 1.0f;
  const int64_t begin = (piece - field(segment->first_update_piece)) * kUpdatePiece;
  const int64_t end = begin + kUpdatePiece < count ? begin + kUpdatePiece : count;
  if (p.stop && load(p.stop) != 0.0f) {
    if (!p.zero_grad) return;
    for (int64_t i = begin + threadIdx.x * int64_t{4}; i < end; i += kStride) {
      const float zero[4] = {};
      store_four(grad + i, zero, end - i, aligned && i + 4 <= end);
    }
    return;
  }
  constexpr int kPlaces = 2;
  for (int64_t first = begin + threadIdx.x * int64_t{4}; first < end; first += kPlaces * kStride) {
    float g[kPlaces][4], m[kPlaces][4], v[kPlaces][4], x[kPlaces][4];
#pragma unroll
    for (int k = 0; k < kPlaces; ++k) {  // all loads before the first is needed
      const int64_t i = first + k * kStride, valid = end - i;
      const bool whole = aligned && valid >= 4;
      load_four(g[k], grad + i, valid, whole);
      load_four(m[k], all_m + i, valid, whole);
      load_four(v[k], all_v + i, valid, whole);
      if constexpr (masters) {
        load_four(x[k], master + i, valid, whole);
      } else {
        load_four(x[k], value + i, valid, whole);
      }
    }
#pragma unroll
    for (int k = 0; k < kPlaces; ++k) {
      const int64_t i = first + k * kStride, valid = end - i;
      const bool whole = aligned && valid >= 4;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float scaled = rounded_product(g[k][j], scale);
        m[k][j] = rounded_sum(rounded_product(p.beta1, m[k][j]),
                              rounded_product(p.one_minus_beta1, scaled));
        v[k][j] = rounded_sum(rounded_product(p.beta2, v[k][j]),
                              rounded_product(rounded_product(p.one_minus_beta2, scaled), scaled));
        const float denominator =
            rounded_sum(rounded_product(sqrtf(v[k][j]), p.inverse_scale2), p.eps);
        x[k][j] = rounded_sum(rounded_product(x[k][j], decay),
                              -rounded_product(p.step_size, m[k][j] / denominator));
        g[k][j] = 0.0f;
      }
      store_four(all_m + i, m[k], valid, whole);
      store_four(all_v + i, v[k], valid, whole);
      if constexpr (masters) {
        store_four(master + i, x[k], valid, whole);
        if (value) store_four(value + i, x[k], valid, whole);
      } else {
        const Philox4 draw = philox4x32(p.rounding_key, first_draw + static_cast<uint64_t>(i) / 4);
        uint16_t bits[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          bits[j] = round_stochastically(x[k][j], draw.word[j] >> 16);
        }
        store_four(value + i, bits, valid, whole);
      }
      if (p.zero_grad) store_four(grad + i, g[k], valid, whole);
    }
  }
}

}  // namespace

size_t optimizer_table_bytes(int num_segments) {
  return static_cast<size_t>(num_segments + 1) * sizeof(Segment);
}

void make_optimizer_table(Stream stream, const OptimizerTable& arguments) {
  std::vector<Segment> table;
  int64_t norm_pieces = 0, update_pieces = 0;
  for (int s = 0; s < arguments.num_segments; ++s) {
    const TensorSegment& t = arguments.segments[s];
    if (t.count == 0) continue;  // so that every segment has a piece
    require(t.first_index % 64 == 0, "optimizer: first_index is not a multiple of 64");
    table.push_back(
        {t, norm_pieces, update_pieces, aligned_to_16(t.master, t.value_bf16, t.grad, t.m, t.v)});
    norm_pieces += ceil_div(t.count, kNormPiece);
    update_pieces += ceil_div(t.count, kUpdatePiece);
  }
  // a last entry for the end
  table.push_back({.first_norm_piece = norm_pieces, .first_update_piece = update_pieces});
  copy_to_device(stream, arguments.table, table.data(), table.size() * sizeof(Segment));
}

size_t global_norm_workspace(int64_t total_count, int num_segments) {
  // every segment may end in a piece of its own
  return static_cast<size_t>(total_count / kNormPiece + num_segments) * sizeof(double);
}

void global_norm(Stream stream, const GlobalNorm& arguments) {
  const Pieces pieces = count_pieces(arguments.segments, arguments.num_segments);
  const Norm norm{static_cast<const Segment*>(arguments.table),
                  pieces.segments,
                  static_cast<double*>(arguments.workspace),
                  pieces.norm,
                  arguments.max_norm,
                  arguments.out,
                  arguments.stop};
  launch(stream, "global_norm", sum_of_squares_kernel,
         {.grid = {static_cast<unsigned>(pieces.norm)},
          .block = {kThreads},
          .shared_bytes = kThreads / kWarp * sizeof(double)},
         norm);
  launch(stream, "global_norm, sum of parts", finish_norm_kernel,
         {.grid = {1}, .block = {1024}, .shared_bytes = kWarp * sizeof(double)}, norm);
}

void flag_nonfinite(Stream stream, const FlagNonfinite& arguments) {
  if (arguments.count == 0) return;
  const int64_t blocks = ceil_div<int64_t>(arguments.count, kThreads);
  launch(stream, "flag_nonfinite", flag_nonfinite_kernel,
         {.grid = {static_cast<unsigned>(blocks < 128 ? blocks : 128)}, .block = {kThreads}},
         arguments);
}

void adamw(Stream stream, const AdamW& arguments) {
  require(arguments.step >= 1, "adamw: steps count from 1");
  const Pieces pieces = count_pieces(arguments.segments, arguments.num_segments);
  if (pieces.segments == 0) return;
  const bool masters = has_masters(arguments);
  const double correction1 = 1.0 - std::pow(arguments.beta1, arguments.step);
  const double correction2 = 1.0 - std::pow(arguments.beta2, arguments.step);
  launch(stream, "adamw", masters ? adamw_kernel<true> : adamw_kernel<false>,
         {.grid = {static_cast<unsigned>(pieces.update)}, .block = {kThreads}},
         {.segments = static_cast<const Segment*>(arguments.table),
          .num_segments = pieces.segments,
          .lr = arguments.lr,
          .beta1 = static_cast<float>(arguments.beta1),
          .one_minus_beta1 = static_cast<float>(1.0 - arguments.beta1),
          .beta2 = static_cast<float>(arguments.beta2),
          .one_minus_beta2 = static_cast<float>(1.0 - arguments.beta2),
          .step_size = static_cast<float>(arguments.lr / correction1),
          .inverse_scale2 = static_cast<float>(1.0 / std::sqrt(correction2)),
          .eps = static_cast<float>(arguments.eps),
          .grad_scale = arguments.grad_scale,
          .stop = arguments.stop,
          .zero_grad = arguments.zero_grad,
          .rounding_key = rounding_key(arguments.rounding_seed, arguments.step)});
}

}  // namespace engine::kernels::ENGINE_GPU
