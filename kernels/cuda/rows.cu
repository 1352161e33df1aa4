// gather_rows and scatter_rows: copies of whole rows, so only the size of an element matters.
//
// Floor: every byte once read and once written. Accesses are of the largest power of two up to 16
// bytes that divides the width, both strides and both addresses.
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/memory.h"

namespace engine::kernels::ENGINE_GPU {
namespace {

constexpr int kThreads = 256;

struct Rows {
  const uint8_t* x;
  uint8_t* out;
  const int32_t* rows;
  int64_t count, words;        // rows, and words of a row
  int64_t x_bytes, out_bytes;  // from row to row
  bool scatter;
};

template <int N>
__global__ void __launch_bounds__(kThreads) copy_rows_kernel(const Rows p) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= p.count * p.words) return;
  const int64_t i = quotient(index, p.words), at = (index - i * p.words) * N;
  const int64_t row = p.rows ? load(p.rows + i) : i;
  const int64_t from = p.scatter ? i : row, to = p.scatter ? row : i;
  store_vector(p.out + to * p.out_bytes + at, load_vector<N>(p.x + from * p.x_bytes + at));
}

void copy_rows(Stream stream, const GatherRows& arguments, bool scatter) {
  if (arguments.count == 0 || arguments.width == 0) return;
  const auto size = static_cast<int64_t>(size_of(arguments.dtype));
  const int64_t bytes = arguments.width * size;
  Rows rows{.x = static_cast<const uint8_t*>(arguments.x),
            .out = static_cast<uint8_t*>(arguments.out),
            .rows = arguments.rows,
            .count = arguments.count,
            .x_bytes = arguments.x_stride ? arguments.x_stride * size : bytes,
            .out_bytes = arguments.out_stride ? arguments.out_stride * size : bytes,
            .scatter = scatter};
  const uint64_t bits = static_cast<uint64_t>(bytes | rows.x_bytes | rows.out_bytes) |
                        reinterpret_cast<uintptr_t>(rows.x) | reinterpret_cast<uintptr_t>(rows.out);
  const auto start = [&](int word, void (*kernel)(Rows)) {
    rows.words = bytes / word;
    launch(stream, scatter ? "scatter_rows" : "gather_rows", kernel,
           {.grid = {static_cast<unsigned>(ceil_div<int64_t>(rows.count * rows.words, kThreads))},
            .block = {kThreads}},
           rows);
  };
  if (bits % 16 == 0) {
    start(16, copy_rows_kernel<16>);
  } else if (bits % 8 == 0) {
    start(8, copy_rows_kernel<8>);
  } else if (bits % 4 == 0) {
    start(4, copy_rows_kernel<4>);
  } else if (bits % 2 == 0) {
    start(2, copy_rows_kernel<2>);
  } else {
    start(1, copy_rows_kernel<1>);
  }
}

}  // namespace

void gather_rows(Stream stream, const GatherRows& arguments) {
  copy_rows(stream, arguments, false);
}

void scatter_rows(Stream stream, const GatherRows& arguments) {
  copy_rows(stream, arguments, true);
}

}  // namespace engine::kernels::ENGINE_GPU
