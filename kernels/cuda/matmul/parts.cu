// Products cut along k: a GPU has more multiprocessors than a product of few elements has tiles,
// and the weight gradients of small models have thousands of k (tokens) for each. Every part goes
// to its own place in the workspace, and this adds them, in order.
//
// Floor: parts + 1 accesses of 4 bytes per element of D (most of them L2), after as many writes.
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/warp.h"
#include "kernels/cuda/matmul/problem.h"

namespace engine::kernels::ENGINE_GPU {
namespace {

constexpr int kThreads = 256;

struct Sum {
  const float* parts;
  int64_t part_stride, ld;
  int count;
  MatmulProblem whole;
};

// Four columns of a row per thread.
template <typename In, typename Out>
__global__ void __launch_bounds__(kThreads) matmul_sum_parts_kernel(const Sum p) {
  const MatmulSizes sizes = sizes_within(p.whole);
  const int across = ceil_div(sizes.n, 4);
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int row = static_cast<int>(i / across), column = static_cast<int>(i % across) * 4;
  if (row >= sizes.m) return;
  const float* const from = p.parts + row * p.ld + column;
  float sum[4];
  load_four(sum, from, 4, true);  // rows of parts are whole vectors
#pragma unroll 4
  for (int part = 1; part < p.count; ++part) {
    float x[4];
    load_four(x, from + part * p.part_stride, 4, true);
#pragma unroll
    for (int j = 0; j < 4; ++j) sum[j] += x[j];
  }
  const int left = sizes.n - column;
  Out* const to = static_cast<Out*>(p.whole.d) + row * p.whole.ldd + column;
  float bias[4], before[4] = {};
  load_bias<4, In>(bias, p.whole.bias, column, sizes.n);
  if (p.whole.accumulate) load_four(before, to, left, p.whole.vectors_d);
#pragma unroll
  for (int j = 0; j < 4; ++j) sum[j] += bias[j] + before[j];
  store_four(to, sum, left, p.whole.vectors_d);
}

template <typename In>
void start(Stream stream, const Sum& sum) {
  const int64_t threads = int64_t{sum.whole.m} * ceil_div(sum.whole.n, 4);
  launch(
      stream, "matmul_sum_parts",
      sum.whole.output_bf16 ? matmul_sum_parts_kernel<In, BFloat16>
                            : matmul_sum_parts_kernel<In, float>,
      {.grid = {static_cast<unsigned>(ceil_div<int64_t>(threads, kThreads))}, .block = {kThreads}},
      sum);
}

}  // namespace

void matmul_sum_parts(Stream stream, const MatmulProblem& whole, const MatmulProblem& split,
                      DType input) {
  const Sum sum{static_cast<const float*>(split.d), split.part_stride, split.ldd, split.parts,
                whole};
  if (input == DType::bf16) {
    start<BFloat16>(stream, sum);
  } else {
    start<float>(stream, sum);
  }
}

}  // namespace engine::kernels::ENGINE_GPU
