// Gradients of biases: sums of columns.
//
// Floor: one read of x. A block takes 16 columns and all rows, two lanes per row, and keeps 64 KiB
// of loads in flight: 48 blocks (768 columns) are enough to keep the memory of a GPU busy, and no
// sum leaves its block, so there is no workspace and the order of the additions is that of the
// rows.
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device/eight.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/warp.h"

namespace engine::kernels::ENGINE_GPU {
namespace {

constexpr int kColumns = 16;          // of a block
constexpr int kLanes = kColumns / 8;  // that share a row
constexpr int kUnroll = 4;            // rows that a thread has in flight

struct Columns {
  const void* x;
  float* out;
  int64_t rows, columns, ld;
  bool accumulate;
  bool vectors;  // rows start on 16-byte boundaries
};

template <typename T>
__global__ void __launch_bounds__(1024) column_sum_kernel(const Columns p) {
  const int thread = static_cast<int>(threadIdx.x), warps = static_cast<int>(blockDim.x) / kWarp;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kColumns + thread % kLanes * 8;
  const int64_t valid = p.columns - first, step = static_cast<int>(blockDim.x) / kLanes;
  const bool whole = p.vectors && valid >= 8;
  const T* const x = static_cast<const T*>(p.x) + first;
  float sum[8] = {};
  for (int64_t row = thread / kLanes; row < p.rows; row += step * kUnroll) {
    Eight<T> raw[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const int64_t r = row + i * step;
      raw[i] = r < p.rows ? load_eight_once(x + r * p.ld, valid, whole) : zero_eight<T>();
    }
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
#pragma unroll
      for (int j = 0; j < 8; ++j) sum[j] += to_float(raw[i][j]);
    }
  }
  // Sums of many rows cancel: fp64 from here on costs nothing.
  SharedMemory shared;
  const auto of_warps = shared.take<double>(warps * kColumns);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    double total = sum[j];
#pragma unroll
    for (int mask = kWarp / 2; mask >= kLanes; mask /= 2) total += shuffle_xor(total, mask);
    if (lane_index() < kLanes) {
      store(of_warps + warp_index() * kColumns + lane_index() * 8 + j, total);
    }
  }
  sync_threads();
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kColumns + thread;
  if (thread >= kColumns || column >= p.columns) return;
  double total = p.accumulate ? load(p.out + column) : 0.0f;
  for (int w = 0; w < warps; ++w) total += load(of_warps + w * kColumns + thread);
  store(p.out + column, static_cast<float>(total));
}

template <typename T>
void start(Stream stream, const Columns& p) {
  const int64_t threads = ceil_div<int64_t>(p.rows, kWarp / kLanes) * kWarp;
  const unsigned block = static_cast<unsigned>(threads < kWarp  ? kWarp
                                               : threads < 1024 ? threads
                                                                : 1024);
  launch(stream, "column_sum", column_sum_kernel<T>,
         {.grid = {static_cast<unsigned>(ceil_div<int64_t>(p.columns, kColumns))},
          .block = {block},
          .shared_bytes = SharedSize().take<double>(block / kWarp * kColumns).bytes()},
         p);
}

}  // namespace

void column_sum(Stream stream, const ColumnSum& arguments) {
  const int64_t ld = arguments.ld ? arguments.ld : arguments.columns;
  require(arguments.rows >= 0 && arguments.columns >= 0 && ld >= arguments.columns,
          "column_sum: bad shape");
  require(arguments.dtype == DType::f32 || arguments.dtype == DType::bf16,
          "column_sum: fp32 or bf16 only");
  const bool vectors = reinterpret_cast<uintptr_t>(arguments.x) % 16 == 0 &&
                       ld * static_cast<int64_t>(size_of(arguments.dtype)) % 16 == 0;
  const Columns p{arguments.x, arguments.out,        arguments.rows, arguments.columns,
                  ld,          arguments.accumulate, vectors};
  if (arguments.dtype == DType::bf16) {
    start<BFloat16>(stream, p);
  } else {
    start<float>(stream, p);
  }
}

}  // namespace engine::kernels::ENGINE_GPU
