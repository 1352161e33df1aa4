// Dropout from a counter-based generator.
//
// Floor: 4 bytes per element of bf16, read and written. A thread draws two counters of the
// generator, some 160 instructions for eight elements: about as long as their bytes take.
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/device/eight.h"
#include "kernels/cuda/device/launch.h"

namespace engine::kernels::ENGINE_GPU {
namespace {

constexpr int kThreads = 256;

struct Drop {
  Dropout dropout;
  uint64_t first;  // counter of the first element, rounded down to two
  bool aligned;    // pieces of two counters are whole vectors of x and y
};

template <typename T>
__global__ void __launch_bounds__(kThreads) dropout_kernel(const Drop p) {
  const Dropout& d = p.dropout;
  const uint64_t counter =
      p.first + 2 * (static_cast<uint64_t>(blockIdx.x) * kThreads + threadIdx.x);
  // may begin before x, and end after it
  const int64_t begin = static_cast<int64_t>(4 * counter - d.offset);
  if (begin >= d.count) return;
  const float scale = 1.0f / (1.0f - d.p);
  const uint64_t seed = read(d.seed);
  const T* const x = static_cast<const T*>(d.x) + begin;
  T* const y = static_cast<T*>(d.y) + begin;
  const bool whole = p.aligned && begin + 8 <= d.count;
  const auto exists = [&](int j) { return begin + j >= 0 && begin + j < d.count; };

  float values[8];
  if (whole) {
    to_floats(values, load_eight_once(x, 8, true));
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j) values[j] = exists(j) ? to_float(load(x + j)) : 0.0f;
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const Philox4 words = philox4x32(seed, counter + static_cast<uint64_t>(half));
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float& value = values[4 * half + j];
      value = uniform_from_bits(words.word[j]) >= d.p ? value * scale : 0.0f;
    }
  }
  if (whole) {
    store_eight(y, values, 8, true);
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      if (exists(j)) store(y + j, from_float<T>(values[j]));
    }
  }
}

}  // namespace

void dropout(Stream stream, const Dropout& arguments) {
  require(arguments.p >= 0.0f && arguments.p < 1.0f, "dropout: p is not in [0, 1)");
  require(arguments.dtype == DType::f32 || arguments.dtype == DType::bf16,
          "dropout: fp32 or bf16 only");
  if (arguments.count == 0) return;
  if (arguments.p == 0.0f) {
    if (arguments.x != arguments.y) {
      copy(stream, arguments.y, arguments.x,
           static_cast<size_t>(arguments.count) * size_of(arguments.dtype));
    }
    return;
  }
  const uint64_t before = arguments.offset % 8;  // elements of the first piece that are not in x
  const Drop drop{arguments, (arguments.offset - before) / 4,
                  before == 0 && aligned_to_16(arguments.x, arguments.y)};
  const int64_t pieces = ceil_div<int64_t>(arguments.count + static_cast<int64_t>(before), 8);
  const LaunchConfig config{.grid = {static_cast<unsigned>(ceil_div<int64_t>(pieces, kThreads))},
                            .block = {kThreads}};
  if (arguments.dtype == DType::bf16) {
    launch(stream, "dropout", dropout_kernel<BFloat16>, config, drop);
  } else {
    launch(stream, "dropout", dropout_kernel<float>, config, drop);
  }
}

}  // namespace engine::kernels::ENGINE_GPU
