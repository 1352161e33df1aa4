#include "kernels/cuda/cross_entropy/targets.h"

#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/warp.h"

namespace engine::kernels::ENGINE_GPU {
namespace {

constexpr int kRowWarps = 8;  // of kernels with a warp per row
constexpr unsigned kRowThreads = kRowWarps * kWarp;

// One block goes through all tokens, 8 per thread at a time: the order, and so every bit of what
// follows, is that of the tokens.
__global__ void __launch_bounds__(1024) list_targets_kernel(const TargetList p) {
  constexpr int kEach = 8;
  SharedMemory shared;
  const auto of_warp = shared.take<int32_t>(kWarp);
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const int step = static_cast<int>(blockDim.x) * kEach;
  int before = 0;  // found in earlier rounds
  for (int begin = 0; begin < p.tokens; begin += step) {
    const int first = begin + static_cast<int>(threadIdx.x) * kEach;
    uint32_t found = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const bool has = first + i < p.tokens && load(p.targets + first + i) != kIgnoreIndex;
      found |= static_cast<uint32_t>(has) << i;
    }
    const int mine = count_bits(found);
    int up_to_me = mine;
#pragma unroll
    for (int delta = 1; delta < kWarp; delta *= 2) {
      const int other = shuffle_up(up_to_me, delta);
      if (lane_index() >= delta) up_to_me += other;
    }
    if (lane_index() == kWarp - 1) store(of_warp + warp_index(), up_to_me);
    sync_threads();
    int position = before + up_to_me - mine;
    for (int w = 0; w < warps; ++w) {
      const int32_t count = load(of_warp + w);
      if (w < warp_index()) position += count;
      before += count;
    }
    sync_threads();
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (found >> i & 1) store(p.rows + position++, first + i);
    }
  }
  if (threadIdx.x == 0) store(p.count, before);
}

// Copies or clears a row of `width` elements, by one warp.
template <typename T>
ENGINE_DEVICE void copy_row(T* to, const T* from, int width, bool vectors) {
  constexpr int N = kVectorWidth<T>;
  if (vectors) {
    for (int i = lane_index() * N; i < width; i += kWarp * N) {
      store_vector(to + i, from ? load_vector<N>(from + i) : Vector<T, N>{});
    }
  } else {
    for (int i = lane_index(); i < width; i += kWarp) {
      store(to + i, from ? load(from + i) : from_float<T>(0.0f));
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kRowThreads) clear_ignored_kernel(const Ignored p) {
  const int row = static_cast<int>(blockIdx.x) * kRowWarps + warp_index();
  if (row >= p.tokens || load(p.targets + row) != kIgnoreIndex) return;
  if (lane_index() == 0) {
    store(p.losses + row, 0.0f);
    if (p.argmax) store(p.argmax + row, -1);
  }
  if (p.d_hidden) {
    copy_row<T>(static_cast<T*>(p.d_hidden) + static_cast<int64_t>(row) * p.width, nullptr, p.width,
                p.vectors);
  }
}

template <typename T>
__global__ void __launch_bounds__(kRowThreads) move_rows_kernel(const ChunkRows p) {
  const int i = static_cast<int>(blockIdx.x) * kRowWarps + warp_index();
  if (i >= p.chunk_rows || i >= load(p.count) - p.first) return;
  const int64_t row = load(p.rows + i);
  copy_row(static_cast<T*>(p.to) + (p.scatter ? row : i) * p.width,
           static_cast<const T*>(p.from) + (p.scatter ? i : row) * p.width, p.width, p.vectors);
}

LaunchConfig warp_per_row(int64_t rows) {
  return {.grid = {static_cast<unsigned>(ceil_div<int64_t>(rows, kRowWarps))},
          .block = {kRowThreads}};
}

}  // namespace

void list_targets(Stream stream, const TargetList& list) {
  const int64_t threads = ceil_div<int64_t>(list.tokens, 8 * kWarp) * kWarp;
  launch(stream, "list_targets", list_targets_kernel,
         {.block = {static_cast<unsigned>(threads < 1024 ? threads : 1024)},
          .shared_bytes = SharedSize().take<int32_t>(kWarp).bytes()},
         list);
}

void clear_ignored(Stream stream, const Ignored& rows, DType dtype) {
  launch(stream, "clear_ignored",
         dtype == DType::bf16 ? clear_ignored_kernel<BFloat16> : clear_ignored_kernel<float>,
         warp_per_row(rows.tokens), rows);
}

void move_rows(Stream stream, const ChunkRows& rows, DType dtype) {
  launch(stream, rows.scatter ? "scatter_targets" : "gather_targets",
         dtype == DType::bf16 ? move_rows_kernel<BFloat16> : move_rows_kernel<float>,
         warp_per_row(rows.chunk_rows), rows);
}

}  // namespace engine::kernels::ENGINE_GPU
