#include "kernels/cuda/attention/backward_bias.h"

namespace engine::kernels::ENGINE_GPU::attention {
namespace {

// d_bias[head, distance] += the two bands that hold this diagonal, of all parts.
__global__ void __launch_bounds__(128)
    attention_bias_combine_kernel(const float* bias_sums, float* d_bias, const Problem problem,
                                  const BiasBands bands) {
  const int index = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (index >= problem.num_heads * problem.distance_count) return;
  const int head = index / problem.distance_count;
  // key - position, counted from the first band
  const int distance =
      index % problem.distance_count - problem.distance_offset - bands.first * bands.rows;
  const int band = distance / bands.rows, rest = distance % bands.rows;
  float sum = 0.0f;
  for (int part = 0; part < bands.parts; ++part) {
    const float* const first =
        bias_sums +
        ((int64_t{part} * problem.num_heads + head) * bands.count + band) * 2 * bands.rows;
    sum += load(first + rest + bands.rows - 1);
    if (rest > 0) sum += load(first + 2 * bands.rows + rest - 1);
  }
  store(d_bias + index, load(d_bias + index) + sum);
}

template <typename T, int kDim>
void launch_bias(const Stream& stream, const BackwardArguments<T>& arguments) {
  using Tiles = BiasTiles<T, kDim>;
  const Problem& problem = arguments.problem;
  const BiasBands bands(problem, Tiles::kRows);
  launch(stream, "attention_bias", attention_bias_kernel<T, kDim>,
         {.grid = {static_cast<unsigned>(bands.parts * problem.num_heads * bands.count)},
          .block = {Tiles::kWarps * kWarp},
          .shared_bytes = BackwardShared<T, kDim, Tiles>::bytes() +
                          Tiles::kRows * (Tiles::kColumns + 1) * sizeof(float)},
         arguments, bands);
  const int count = problem.num_heads * problem.distance_count;
  launch(stream, "attention_bias_combine", attention_bias_combine_kernel,
         {.grid = {static_cast<unsigned>(ceil_div(count, 128))}, .block = {128}},
         arguments.bias_sums, arguments.d_bias, problem, bands);
}

template <typename T>
void of_dim(const Stream& stream, const BackwardArguments<T>& arguments) {
  for_padded_dim<64, 128, 256>(arguments.problem.head_dim, [&](auto dim) {
    launch_bias<T, decltype(dim)::value>(stream, arguments);
  });
}

}  // namespace

void bias_gradient(const Stream& stream, const BackwardArguments<BFloat16>& arguments) {
  of_dim(stream, arguments);
}
void bias_gradient(const Stream& stream, const BackwardArguments<float>& arguments) {
  of_dim(stream, arguments);
}

}  // namespace engine::kernels::ENGINE_GPU::attention
