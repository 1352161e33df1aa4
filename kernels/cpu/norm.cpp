// One pass over memory: a row is read from memory once and then again from L1 or L2.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/parallel.h"

namespace engine::kernels::cpu {
namespace {

constexpr int64_t kRowsPerPiece = 8;
constexpr int64_t kColumnGrain = 256;

// Rows of one partial sum of the weight gradient: at most 64 partial sums.
int64_t rows_per_chunk(int64_t tokens) {
  return std::max<int64_t>(16, (tokens + 63) / 64);
}
int64_t num_chunks(int64_t tokens) {
  return (tokens + rows_per_chunk(tokens) - 1) / rows_per_chunk(tokens);
}

// The two styles of formula and the two gains; t5 is llama here.
template <NormKind kind>
struct Kind {
  static constexpr bool centred = kind == NormKind::layer_norm;
  static constexpr bool offset_gain = kind == NormKind::rms_gemma;
  static constexpr bool rounds_normalised = kind == NormKind::rms_llama;
  static ENGINE_INLINE F32x16 gain(F32x16 weight) { return offset_gain ? 1.0f + weight : weight; }
};

// body(compute type, residual type, Kind)
template <typename Body>
void with_types(NormKind kind, DType compute, DType residual, const Body& body) {
  const auto with_kind = [&](auto compute_type, auto residual_type) {
    switch (kind) {
      case NormKind::layer_norm:
        return body(compute_type, residual_type, Kind<NormKind::layer_norm>{});
      case NormKind::rms_gemma:
        return body(compute_type, residual_type, Kind<NormKind::rms_gemma>{});
      case NormKind::rms_llama:
      case NormKind::rms_t5:
        return body(compute_type, residual_type, Kind<NormKind::rms_llama>{});
    }
  };
  if (compute == DType::f32 && residual == DType::f32) return with_kind(float{}, float{});
  if (compute == DType::bf16 && residual == DType::f32) return with_kind(BFloat16{}, float{});
  if (compute == DType::bf16 && residual == DType::bf16) return with_kind(BFloat16{}, BFloat16{});
  require(false, "norm: compute and residual must be f32 and f32, bf16 and f32, or bf16 and bf16");
}

// Elements from the start of x, y, dy and dx to row `row`.
template <typename Norm>
int64_t row_start(const Norm& p, int64_t row) {
  if (p.heads == 0) return row * p.hidden;
  return row / p.heads * p.token_stride + row % p.heads * p.hidden;
}

// Sum over a row of term(i, lanes): four vectors of partial sums, so that additions overlap.
// term gives 0 in the lanes past the end.
template <typename Term>
ENGINE_INLINE float sum_over_row(int64_t count, const Term& term) {
  F32x16 sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    for (int k = 0; k < 4; ++k) sums[k] += term(i + k * kLanes, AllLanes{});
  }
  for (; i + kLanes <= count; i += kLanes) sums[0] += term(i, AllLanes{});
  if (i < count) sums[1] += term(i, FirstLanes{count - i});
  return sum_of_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

ENGINE_INLINE F32x16 zero_rest(F32x16 v, AllLanes) {
  return v;
}
ENGINE_INLINE F32x16 zero_rest(F32x16 v, FirstLanes lanes) {
  return fill_rest(v, 0.0f, lanes);
}

}  // namespace

void norm_forward(Stream, const NormForward& p) {
  require(p.delta == nullptr || p.residual_out != nullptr, "norm: delta without residual_out");
  require(p.heads == 0 || p.residual_out == nullptr, "norm: heads with residual_out");
  with_types(p.kind, p.compute_dtype, p.residual_dtype,
             [&](auto compute, auto residual, auto kind) {
               using C = decltype(compute);
               using R = decltype(residual);
               using K = decltype(kind);
               const int64_t hidden = p.hidden;
               const C* const weight = static_cast<const C*>(p.weight);
               const C* const bias = static_cast<const C*>(p.bias);
               const float elements = static_cast<float>(hidden);

               const auto normalise_row = [&](int64_t row) {
                 const int64_t start = row_start(p, row);
                 const R* const x = static_cast<const R*>(p.x) + start;
                 const C* const delta =
                     p.delta != nullptr ? static_cast<const C*>(p.delta) + start : nullptr;
                 R* const stored =
                     p.residual_out != nullptr ? static_cast<R*>(p.residual_out) + start : nullptr;
                 const R* const r = stored != nullptr ? stored : x;
                 C* const y = static_cast<C*>(p.y) + start;

                 const auto moment = [](F32x16 v) { return K::centred ? v : v * v; };
                 float sum;
                 if (delta != nullptr) {
                   sum = sum_over_row(hidden, [&](int64_t i, auto lanes) {
                     const F32x16 v = round_to<R>(load(x + i, lanes) + load(delta + i, lanes));
                     store(stored + i, v, lanes);
                     return moment(v);
                   });
                 } else if (stored != nullptr && stored != x) {
                   sum = sum_over_row(hidden, [&](int64_t i, auto lanes) {
                     const F32x16 v = load(x + i, lanes);
                     store(stored + i, v, lanes);
                     return moment(v);
                   });
                 } else {
                   sum = sum_over_row(
                       hidden, [&](int64_t i, auto lanes) { return moment(load(x + i, lanes)); });
                 }

                 const float mean = K::centred ? sum / elements : 0.0f;
                 if constexpr (K::centred) {
                   sum = sum_over_row(hidden, [&](int64_t i, auto lanes) {
                     const F32x16 v = zero_rest(load(r + i, lanes) - mean, lanes);
                     return v * v;
                   });
                 }
                 const float rstd = 1.0f / std::sqrt(sum / elements + p.eps);
                 if (p.mean != nullptr && K::centred) p.mean[row] = mean;
                 if (p.rstd != nullptr) p.rstd[row] = rstd;

                 for_vectors(hidden, [&](int64_t i, auto lanes) {
                   F32x16 normalised = (load(r + i, lanes) - mean) * rstd;
                   if constexpr (K::rounds_normalised) normalised = round_to<C>(normalised);
                   F32x16 out = K::gain(load(weight + i, lanes)) * normalised;
                   if (K::centred && bias != nullptr) out += load(bias + i, lanes);
                   store(y + i, out, lanes);
                 });
               };

               parallel_for_ranges(p.tokens, kRowsPerPiece, [&](int64_t begin, int64_t end) {
                 for (int64_t row = begin; row < end; ++row) normalise_row(row);
               });
             });
}

size_t norm_backward_workspace(int64_t tokens, int64_t hidden) {
  // partial sums of the weight's and of the bias' gradient
  return static_cast<size_t>(2 * num_chunks(tokens) * hidden) * sizeof(float);
}

void norm_backward(Stream, const NormBackward& p) {
  require(p.heads == 0 || p.d_residual == nullptr, "norm: heads with d_residual");
  with_types(
      p.kind, p.compute_dtype, p.residual_dtype, [&](auto compute, auto residual, auto kind) {
        using C = decltype(compute);
        using R = decltype(residual);
        using K = decltype(kind);
        const int64_t hidden = p.hidden, chunks = num_chunks(p.tokens);
        const C* const weight = static_cast<const C*>(p.weight);
        const float elements = static_cast<float>(hidden);
        float* const d_weight_parts = static_cast<float*>(p.workspace);
        float* const d_bias_parts = d_weight_parts + chunks * hidden;

        const auto backward_row = [&](int64_t row, float* d_weight, float* d_bias) {
          const int64_t start = row_start(p, row);
          const C* const dy = static_cast<const C*>(p.dy) + start;
          const R* const r = static_cast<const R*>(p.x) + start;
          const R* const d_residual =
              p.d_residual != nullptr ? static_cast<const R*>(p.d_residual) + start : nullptr;
          R* const dx = static_cast<R*>(p.dx) + start;
          const float mean = K::centred ? p.mean[row] : 0.0f, rstd = p.rstd[row];
          const auto gradient = [&](int64_t i, auto lanes) {  // g = dy ∘ gain; 0 past the end
            return load(dy + i, lanes) * K::gain(load(weight + i, lanes));
          };
          const auto normalised = [&](int64_t i, auto lanes) {
            return (load(r + i, lanes) - mean) * rstd;
          };

          float mean_g = 0.0f;
          if constexpr (K::centred) mean_g = sum_over_row(hidden, gradient) / elements;
          const float sum_gx = sum_over_row(hidden, [&](int64_t i, auto lanes) {
            return gradient(i, lanes) * normalised(i, lanes);
          });
          const float mean_gx = sum_gx / elements;
          for_vectors(hidden, [&](int64_t i, auto lanes) {
            const F32x16 x_hat = normalised(i, lanes);
            F32x16 d = rstd * (gradient(i, lanes) - mean_g - x_hat * mean_gx);
            if (d_weight != nullptr) {
              const F32x16 part = load(dy + i, lanes) * x_hat;
              store(d_weight + i, load(d_weight + i, lanes) + part, lanes);
            }
            if (d_bias != nullptr) {
              store(d_bias + i, load(d_bias + i, lanes) + load(dy + i, lanes), lanes);
            }
            if (d_residual != nullptr) d += load(d_residual + i, lanes);
            store(dx + i, d, lanes);
          });
        };

        parallel_for(chunks, [&](int64_t chunk) {
          float* const d_weight = p.d_weight != nullptr ? d_weight_parts + chunk * hidden : nullptr;
          float* const d_bias = p.d_bias != nullptr ? d_bias_parts + chunk * hidden : nullptr;
          if (d_weight != nullptr) std::fill_n(d_weight, hidden, 0.0f);
          if (d_bias != nullptr) std::fill_n(d_bias, hidden, 0.0f);
          const int64_t begin = chunk * rows_per_chunk(p.tokens);
          const int64_t end = std::min(begin + rows_per_chunk(p.tokens), p.tokens);
          for (int64_t row = begin; row < end; ++row) backward_row(row, d_weight, d_bias);
        });

        const auto add_parts = [&](const float* parts, float* total) {
          parallel_for_ranges(hidden, kColumnGrain, [=](int64_t begin, int64_t end) {
            for_vectors(end - begin, [=](int64_t k, auto lanes) {
              F32x16 sum = {};
              for (int64_t chunk = 0; chunk < chunks; ++chunk) {
                sum += load(parts + chunk * hidden + begin + k, lanes);
              }
              store(total + begin + k, load(total + begin + k, lanes) + sum, lanes);
            });
          });
        };
        if (p.d_weight != nullptr) add_parts(d_weight_parts, p.d_weight);
        if (p.d_bias != nullptr) add_parts(d_bias_parts, p.d_bias);
      });
}

}  // namespace engine::kernels::cpu
