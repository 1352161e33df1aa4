// Rotary position embedding, in place.
//
// Bound by memory: every element once read and once written, 4 bytes per element of bf16. A thread
// turns eight pairs of up to four heads of one token, with their angles (from L2: a row of the
// tables serves all heads) in registers and eight 16-byte accesses in flight.
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device/eight.h"
#include "kernels/cuda/device/launch.h"

namespace engine::kernels::ENGINE_GPU {
namespace {

constexpr int kThreads = 128;
constexpr int kHeads = 4;  // of one thread

struct Rotation {
  Rope rope;
  int pieces;            // of eight pairs, in half a head
  int items;             // pieces times groups of kHeads heads: the threads of one token
  int tokens_per_block;  // at least 1
  bool aligned;          // every piece is whole, in x and in the tables
};

template <typename T>
__global__ void __launch_bounds__(kThreads) rope_kernel(const Rotation p) {
  const Rope& rope = p.rope;
  const int half = rope.head_dim / 2;
  const float sign = rope.inverse ? -1.0f : 1.0f;
  for (int item = static_cast<int>(threadIdx.x); item < p.tokens_per_block * p.items;
       item += kThreads) {
    const int64_t token = static_cast<int64_t>(blockIdx.x) * p.tokens_per_block + item / p.items;
    if (token >= rope.tokens) break;
    const int first_head = item % p.items / p.pieces * kHeads;
    const int heads = rope.num_heads - first_head;  // may be more than kHeads
    const int i = item % p.items % p.pieces * 8;
    const int valid = half - i;

    const int64_t angles = static_cast<int64_t>(load(rope.positions + token)) * half + i;
    float c[8], s[8];
    to_floats(c, load_eight(rope.cos + angles, valid, p.aligned));
    to_floats(s, load_eight(rope.sin + angles, valid, p.aligned));
#pragma unroll
    for (int j = 0; j < 8; ++j) s[j] *= sign;

    T* const x = static_cast<T*>(rope.x) + token * rope.stride +
                 static_cast<int64_t>(first_head) * rope.head_dim + i;
    Eight<T> first[kHeads], second[kHeads];
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h < heads) {
        first[h] = load_eight_once(x + h * rope.head_dim, valid, p.aligned);
        second[h] = load_eight_once(x + h * rope.head_dim + half, valid, p.aligned);
      }
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= heads) continue;
      float a[8], b[8], turned_a[8], turned_b[8];
      to_floats(a, first[h]);
      to_floats(b, second[h]);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        turned_a[j] = a[j] * c[j] - b[j] * s[j];
        turned_b[j] = b[j] * c[j] + a[j] * s[j];
      }
      store_eight(x + h * rope.head_dim, turned_a, valid, p.aligned);
      store_eight(x + h * rope.head_dim + half, turned_b, valid, p.aligned);
    }
  }
}

}  // namespace

void rope(Stream stream, const Rope& arguments) {
  require(arguments.head_dim % 2 == 0, "rope: head_dim is odd");
  require(arguments.dtype == DType::f32 || arguments.dtype == DType::bf16,
          "rope: fp32 or bf16 only");
  if (arguments.tokens == 0 || arguments.num_heads == 0 || arguments.head_dim == 0) return;
  const int half = arguments.head_dim / 2;
  const int pieces = ceil_div(half, 8);
  const int items = pieces * ceil_div(arguments.num_heads, kHeads);
  const int tokens_per_block = items < kThreads ? kThreads / items : 1;
  const bool aligned = half % 8 == 0 && arguments.stride % 8 == 0 &&
                       aligned_to_16(arguments.x, arguments.cos, arguments.sin);
  const Rotation rotation{arguments, pieces, items, tokens_per_block, aligned};
  const LaunchConfig config{
      .grid = {static_cast<unsigned>(ceil_div<int64_t>(arguments.tokens, tokens_per_block))},
      .block = {kThreads}};
  if (arguments.dtype == DType::bf16) {
    launch(stream, "rope", rope_kernel<BFloat16>, config, rotation);
  } else {
    launch(stream, "rope", rope_kernel<float>, config, rotation);
  }
}

}  // namespace engine::kernels::ENGINE_GPU
