// add, cast and find_nonfinite: one pass over memory, 16 bytes per access where alignment allows.
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device/eight.h"  // aligned_to_16
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/piece.h"
#include "kernels/cuda/device/warp.h"

namespace engine::kernels::ENGINE_GPU {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 8;  // elements: 16 bytes of bf16, or two times four beside fp32

// Blocks for `count` elements. Large arrays: every block takes several pieces (grid-stride loop).
unsigned blocks_for(int64_t count) {
  const int64_t blocks = ceil_div<int64_t>(count, kThreads * kPerThread);
  return static_cast<unsigned>(blocks < 65536 ? blocks : 65536);
}

struct Sum {
  const void* a;
  const void* b;  // null: a alone, scaled and converted
  void* out;
  int64_t count;
  bool aligned;
  float scale = 1.0f;
};

template <typename A, typename B, typename Out>
__global__ void __launch_bounds__(kThreads) add_kernel(const Sum sum) {
  constexpr int N = sizeof(A) == 2 && sizeof(B) == 2 && sizeof(Out) == 2 ? 8 : 4;
  constexpr int kPlaces = kPerThread / N, kApart = kThreads * N;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads * kPerThread;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads * kPerThread + threadIdx.x * N;
       i < sum.count; i += step) {
    float a[kPlaces][N], b[kPlaces][N] = {};
    const auto valid = [&](int k) { return sum.count - i - k * kApart; };
    const auto whole = [&](int k) { return sum.aligned && valid(k) >= N; };
#pragma unroll
    for (int k = 0; k < kPlaces; ++k) {  // all loads before the first is needed
      const int64_t at = i + k * kApart;
      load_piece_once(a[k], static_cast<const A*>(sum.a) + at, valid(k), whole(k));
      if (sum.b) load_piece_once(b[k], static_cast<const B*>(sum.b) + at, valid(k), whole(k));
    }
#pragma unroll
    for (int k = 0; k < kPlaces; ++k) {
#pragma unroll
      for (int j = 0; j < N; ++j) {
        if (sum.b) {
          a[k][j] += b[k][j];
        } else if (sum.scale != 1.0f) {
          a[k][j] *= sum.scale;
        }
      }
      store_piece(static_cast<Out*>(sum.out) + i + k * kApart, a[k], valid(k), whole(k));
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    find_nonfinite_kernel(const T* x, int64_t count, int64_t* first) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += step) {
    const float value = to_float(load(x + i));
    if (!(fabsf(value) <= 3.402823466e38f)) {  // also true for NaN
      atomic_min(first, i);
      return;
    }
  }
}

template <typename A, typename B>
void launch_add(Stream stream, const Sum& sum, DType out) {
  const LaunchConfig config{.grid = {blocks_for(sum.count)}, .block = {kThreads}};
  if (out == DType::bf16) {
    launch(stream, "add", add_kernel<A, B, BFloat16>, config, sum);
  } else {
    launch(stream, "add", add_kernel<A, B, float>, config, sum);
  }
}

void check_float(DType dtype) {
  require(dtype == DType::f32 || dtype == DType::bf16, "elementwise: fp32 or bf16 only");
}

}  // namespace

void add(Stream stream, const Add& arguments) {
  check_float(arguments.a_dtype);
  check_float(arguments.b_dtype);
  check_float(arguments.out_dtype);
  Sum sum{arguments.a, arguments.b, arguments.out, arguments.count,
          aligned_to_16(arguments.a, arguments.b, arguments.out)};
  const bool a_bf16 = arguments.a_dtype == DType::bf16, b_bf16 = arguments.b_dtype == DType::bf16;
  if (a_bf16 && b_bf16) {
    launch_add<BFloat16, BFloat16>(stream, sum, arguments.out_dtype);
  } else if (!a_bf16 && !b_bf16) {
    launch_add<float, float>(stream, sum, arguments.out_dtype);
  } else {
    if (a_bf16) {  // the sum is the same either way round
      const void* const a = sum.a;
      sum.a = sum.b;
      sum.b = a;
    }
    launch_add<float, BFloat16>(stream, sum, arguments.out_dtype);
  }
}

void cast(Stream stream, const Cast& arguments) {
  if (arguments.from == arguments.to && arguments.scale == 1.0f) {
    copy(stream, arguments.out, arguments.x,
         static_cast<size_t>(arguments.count) * size_of(arguments.from));
    return;
  }
  check_float(arguments.from);
  check_float(arguments.to);
  const Sum sum{arguments.x,
                nullptr,
                arguments.out,
                arguments.count,
                aligned_to_16(arguments.x, arguments.out),
                arguments.scale};
  if (arguments.from == DType::bf16) {
    launch_add<BFloat16, BFloat16>(stream, sum, arguments.to);
  } else {
    launch_add<float, float>(stream, sum, arguments.to);
  }
}

void find_nonfinite(Stream stream, const FindNonfinite& arguments) {
  check_float(arguments.dtype);
  *arguments.index = -1;
  if (arguments.count == 0) return;
  // A search after something went wrong, never in a normal step: it may allocate.
  auto* const first = static_cast<int64_t*>(allocate(stream, sizeof(int64_t)));
  if (!first) throw GpuError("find_nonfinite: no device memory left for 8 bytes");
  int64_t found = INT64_MAX;
  copy_to_device(stream, first, &found, sizeof found);
  const LaunchConfig config{.grid = {blocks_for(arguments.count)}, .block = {kThreads}};
  if (arguments.dtype == DType::bf16) {
    launch(stream, "find_nonfinite", find_nonfinite_kernel<BFloat16>, config,
           static_cast<const BFloat16*>(arguments.x), arguments.count, first);
  } else {
    launch(stream, "find_nonfinite", find_nonfinite_kernel<float>, config,
           static_cast<const float*>(arguments.x), arguments.count, first);
  }
  copy_to_host(stream, &found, first, sizeof found);
  release(stream, first);
  if (found != INT64_MAX) *arguments.index = found;
}

}  // namespace engine::kernels::ENGINE_GPU
