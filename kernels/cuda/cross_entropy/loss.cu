// The loss kernel, a block per row. Maximum and sum come from the parts that the product noted, or
// else from reading the logits; then they are read for dz.
#include "kernels/cuda/cross_entropy/loss.h"

#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/math.h"
#include "kernels/cuda/device/warp.h"

namespace engine::kernels::ENGINE_GPU {
namespace {

constexpr int kGroups = 4;  // of 4 logits that a thread reads at a time

// Logits of a thread in the step that begins at `begin`: group g at begin + (g threads + thread) 4.
// Beyond the last class: -infinity.
struct LogitReader {
  const float* row;
  int classes;
  float scale;
  bool vectors;

  ENGINE_DEVICE static int first(int begin, int group) {
    return begin + (group * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * 4;
  }
  ENGINE_DEVICE void read(float (&z)[kGroups][4], int begin) const {
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int v = first(begin, g);
      if (vectors && v + 4 <= classes) {
        const auto four = load_vector<4>(row + v);
#pragma unroll
        for (int e = 0; e < 4; ++e) z[g][e] = four[e] * scale;
      } else {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          z[g][e] = v + e < classes ? load(row + v + e) * scale : -infinity();
        }
      }
    }
  }
};

struct Softmax {
  float maximum, sum;  // Σ exp(z - maximum)
  int argmax;          // the first of equals
};

// The smallest of all threads.
ENGINE_DEVICE int block_min(int value, Shared<int32_t> scratch) {
#pragma unroll
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const int other = shuffle_xor(value, mask);
    value = other < value ? other : value;
  }
  if (lane_index() == 0) store(scratch + warp_index(), value);
  sync_threads();
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w) {
    const int other = load(scratch + w);
    value = other < value ? other : value;
  }
  sync_threads();
  return value;
}

ENGINE_DEVICE Softmax softmax_of_row(const LogitReader& reader, Shared<float> scratch) {
  // not -inf: a row of -inf must not compute inf - inf before a finite logit comes
  float highest = -3.402823466e38f, sum = 0.0f;
  int argmax = 0;
  const int step = static_cast<int>(blockDim.x) * kGroups * 4;
  for (int begin = 0; begin < reader.classes; begin += step) {
    float z[kGroups][4];
    reader.read(z, begin);
    float most = highest;
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int e = 0; e < 4; ++e) most = fmaxf(most, z[g][e]);
    }
    if (most > highest) {
      sum *= exp_approx(highest - most);
      highest = most;
      argmax = INT32_MAX;
#pragma unroll
      for (int g = kGroups - 1; g >= 0; --g) {
#pragma unroll
        for (int e = 3; e >= 0; --e) {
          if (z[g][e] == most) argmax = LogitReader::first(begin, g) + e;
        }
      }
    }
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sum += exp_approx(z[g][e] - highest);
    }
  }
  Softmax result;
  result.maximum = block_max(highest, scratch);
  result.sum = block_sum(sum * exp_approx(highest - result.maximum), scratch);
  result.argmax = block_min(highest == result.maximum ? argmax : INT32_MAX, scratch.as<int32_t>());
  return result;
}

// The same from the parts: 8 bytes for every 32 logits. Which is largest is looked up in the first
// part that has it.
ENGINE_DEVICE Softmax softmax_of_parts(const LossRows& p, const SoftmaxPart* parts,
                                       const float* logits, Shared<float> scratch) {
  const int count = ceil_div(p.classes, kSoftmaxPartColumns);
  const int threads = static_cast<int>(blockDim.x);
  float highest = -3.402823466e38f, sum = 0.0f;
  int first = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += threads) {
    const auto part = load_vector<2>(reinterpret_cast<const float*>(parts + i));
    if (part[0] > highest) {
      sum *= exp_approx(highest - part[0]);
      highest = part[0];
      first = i;
    }
    sum += part[1] * exp_approx(part[0] - highest);
  }
  Softmax result;
  result.maximum = block_max(highest, scratch);
  result.sum = block_sum(sum * exp_approx(highest - result.maximum), scratch);
  result.argmax = 0;
  if (!p.argmax) return result;
  first = block_min(highest == result.maximum ? first : INT32_MAX, scratch.as<int32_t>());
  const int v = first * kSoftmaxPartColumns + lane_index();
  const bool is = v < p.classes && load(logits + v) * p.logit_scale == result.maximum;
  const uint32_t lanes = ballot(is);
  result.argmax = first * kSoftmaxPartColumns + (lanes ? count_bits((lanes & -lanes) - 1) : 0);
  return result;
}

// One block per row.
template <typename T>
__global__ void __launch_bounds__(1024) loss_kernel(const LossRows p) {
  const int i = static_cast<int>(blockIdx.x);
  if (p.count && i >= load(p.count) - p.first) return;
  const int row = p.rows ? load(p.rows + i) : i;
  float* const logits = p.logits + i * p.stride;
  auto* const dz = reinterpret_cast<T*>(logits);
  const int32_t target = load(p.targets + row);
  const LogitReader reader{logits, p.classes, p.logit_scale, p.vectors};
  const int step = static_cast<int>(blockDim.x) * kGroups * 4;
  if (target == kIgnoreIndex) {
    if (threadIdx.x == 0) {
      store(p.losses + row, 0.0f);
      if (p.argmax) store(p.argmax + row, -1);
    }
    for (int v = static_cast<int>(threadIdx.x); p.gradient && v < p.classes;
         v += static_cast<int>(blockDim.x)) {
      store(dz + v, from_float<T>(0.0f));
    }
    return;
  }

  SharedMemory shared;
  const auto scratch = shared.take<float>(kWarp);
  const Softmax softmax = p.parts
                              ? softmax_of_parts(p, p.parts + i * p.part_stride, logits, scratch)
                              : softmax_of_row(reader, scratch);
  if (threadIdx.x == 0) {
    const double distance =
        static_cast<double>(softmax.maximum) - load(logits + target) * p.logit_scale;
    store(p.losses + row, static_cast<float>(log(static_cast<double>(softmax.sum)) + distance));
    if (p.argmax) store(p.argmax + row, softmax.argmax);
  }
  if (!p.gradient) return;

  const float gradient = p.logit_scale * read(p.grad_scale);
  const float share = 1.0f / softmax.sum;
  for (int begin = 0; begin < p.classes; begin += step) {
    float z[kGroups][4];
    reader.read(z, begin);
    // dz of this step lies over logits that have been read now: those of earlier steps and, in the
    // first step, its own. The barrier also keeps the target's logit until its loss is known.
    sync_threads();
#pragma unroll
    for (int g = 0; g < kGroups; ++g) {
      const int v = LogitReader::first(begin, g);
      Vector<T, 4> four;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float probability = exp_approx(z[g][e] - softmax.maximum) * share;
        four[e] = from_float<T>((v + e == target ? probability - 1.0f : probability) * gradient);
      }
      if (p.vectors && v + 4 <= p.classes) {
        store_vector(dz + v, four);
      } else {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (v + e < p.classes) store(dz + v + e, four[e]);
        }
      }
    }
  }
}

}  // namespace

void cross_entropy_rows(Stream stream, const LossRows& p, int64_t rows, DType gradient) {
  // 16 logits per thread and step; large rows have the multiprocessor for themselves.
  const int64_t threads = ceil_div<int64_t>(p.classes, kGroups * 4 * kWarp) * kWarp;
  launch(stream, "cross_entropy",
         gradient == DType::bf16 ? loss_kernel<BFloat16> : loss_kernel<float>,
         {.grid = {static_cast<unsigned>(rows)},
          .block = {static_cast<unsigned>(threads < 1024 ? threads : 1024)},
          .shared_bytes = SharedSize().take<float>(kWarp).bytes()},
         p);
}

}  // namespace engine::kernels::ENGINE_GPU
