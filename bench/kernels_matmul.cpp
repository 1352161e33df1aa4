// Matmul of the shapes that training runs, in GFLOP/s and as a fraction of what the inner kernel
// reaches on all threads when its operands never leave the L1 cache.
#include "bench/kernels_matmul.h"

#include <fmt/core.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "kernels/api/operations.h"
#include "kernels/cpu/matmul_kernels.h"

namespace engine::bench {
namespace {

using kernels::DType;

struct Shape {
  const char* name;
  int64_t tokens, out, in;
};
constexpr Shape kShapes[] = {
    {"gpt2 qkv", 2048, 2304, 768},          {"gpt2 proj", 2048, 768, 768},
    {"gpt2 fc1", 2048, 3072, 768},          {"gpt2 fc2", 2048, 768, 3072},
    {"gpt2 head", 512, 50257, 768},         {"llama 512 qkv", 2048, 512, 512},
    {"llama 512 gate+up", 2048, 2752, 512}, {"llama 512 down", 2048, 512, 1376},
    {"llama 512 head", 512, 32000, 512}};

// Seconds of the fastest of several runs: the one that other programs disturbed least.
template <typename Body>
double fastest(const Body& body) {
  constexpr int kRuns = 7;
  body();
  double best = 1e30;
  for (int run = 0; run < kRuns; ++run) {
    const auto start = std::chrono::steady_clock::now();
    body();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    best = std::min(best, taken.count());
  }
  return best;
}

double measured_peak(DType dtype) {
  const kernels::cpu::MatmulKernel& kernel = kernels::cpu::matmul_kernel(dtype);
  constexpr int64_t kDepth = 128;
  constexpr int kCalls = 2000;
  const int threads = omp_get_max_threads();
  const double seconds = fastest([&] {
#pragma omp parallel num_threads(threads)
    {
      // zeroed once per run, which is nothing next to the calls
      alignas(64) char a[32 * kDepth * 4] = {}, b[32 * kDepth * 4] = {};
      alignas(64) float c[32 * 32] = {};
      if (kernel.begin) kernel.begin();
      for (int call = 0; call < kCalls; ++call) {
        kernel.multiply(kDepth, a, b, c, kernel.nr, false);
      }
      if (kernel.end) kernel.end();
    }
  });
  return 2.0 * kernel.mr * kernel.nr * kDepth * kCalls * threads / seconds / 1e9;
}

std::vector<float> numbers(int64_t count, DType dtype) {
  std::vector<float> storage(static_cast<size_t>(count));
  uint32_t state = 1;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    const float value = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
    if (dtype == DType::bf16) {
      reinterpret_cast<kernels::BFloat16*>(storage.data())[i] = kernels::BFloat16(value);
    } else {
      storage[static_cast<size_t>(i)] = value;
    }
  }
  return storage;
}

}  // namespace

void run_matmul_benchmark() {
  const kernels::Stream stream;
  const kernels::Operations& ops = kernels::operations(stream);
  for (DType dtype : {DType::f32, DType::bf16}) {
    const double peak = measured_peak(dtype);
    fmt::print("{} on {} threads, kernel {}: {:.0f} GFLOP/s in cache\n", kernels::name_of(dtype),
               omp_get_max_threads(), kernels::cpu::matmul_kernel(dtype).name, peak);
    fmt::print("{:<20}{:>24}  {:>14}{:>14}{:>14}\n", "", "tokens x out x in", "Y = X Wt",
               "dX = dY W", "dW += dYt X");
    for (const Shape& s : kShapes) {
      const auto x = numbers(s.tokens * s.in, dtype), w = numbers(s.out * s.in, dtype);
      const auto dy = numbers(s.tokens * s.out, dtype);
      std::vector<float> y(dy.size()), dx(x.size()), dw(w.size());
      const kernels::Matmul products[] = {{.a = x.data(),
                                           .b = w.data(),
                                           .d = y.data(),
                                           .m = s.tokens,
                                           .n = s.out,
                                           .k = s.in,
                                           .transpose_b = true,
                                           .input_dtype = dtype,
                                           .output_dtype = dtype},
                                          {.a = dy.data(),
                                           .b = w.data(),
                                           .d = dx.data(),
                                           .m = s.tokens,
                                           .n = s.in,
                                           .k = s.out,
                                           .input_dtype = dtype,
                                           .output_dtype = dtype},
                                          {.a = dy.data(),
                                           .b = x.data(),
                                           .d = dw.data(),
                                           .m = s.out,
                                           .n = s.in,
                                           .k = s.tokens,
                                           .transpose_a = true,
                                           .accumulate = true,
                                           .input_dtype = dtype,
                                           .output_dtype = DType::f32}};
      fmt::print("{:<20}{:>24}  ", s.name, fmt::format("{} x {} x {}", s.tokens, s.out, s.in));
      for (const kernels::Matmul& product : products) {
        const double seconds = fastest([&] { ops.matmul(stream, product); });
        const double rate = 2.0 * s.tokens * s.out * s.in / seconds / 1e9;
        fmt::print("{:>14}", fmt::format("{:.0f} ({:.0f}%)", rate, 100 * rate / peak));
      }
      fmt::print("\n");
    }
  }
}

}  // namespace engine::bench
