#include <algorithm>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/philox.h"

namespace engine::kernels::cpu {
namespace {

constexpr int64_t kGrain = 1 << 14;  // elements of one piece, a multiple of kBlock
constexpr int64_t kBlock = kPhiloxBlock;

ENGINE_INLINE F32x16 uniform_from_words(U32x16 words) {
  // below 2^24, so the signed conversion (which every instruction set has) is the same
  return __builtin_convertvector(reinterpret_cast<I32x16>(words >> 8), F32x16) *
         (1.0f / 16777216.0f);
}

template <typename T>
void drop(const T* x, T* y, int64_t count, const Dropout& p, uint64_t offset) {
  const float scale = 1.0f / (1.0f - p.p);
  const uint64_t seed = p.seed.get();
  const uint64_t first = offset / kBlock * kBlock;  // blocks start at multiples of 64
  for (uint64_t block = first; block < offset + static_cast<uint64_t>(count); block += kBlock) {
    const PhiloxWords words = philox_words(seed, block / 4);
    const int64_t begin = static_cast<int64_t>(block - offset);  // negative in the first block
    if (begin >= 0 && begin + kBlock <= count) {
      for (int k = 0; k < 4; ++k) {
        const int64_t i = begin + k * kLanes;
        const F32x16 kept = load(x + i) * scale;
        store(y + i, uniform_from_words(words.vector[k]) >= p.p ? kept : splat(0.0f));
      }
      continue;
    }
    float uniform[kBlock];
    for (int k = 0; k < 4; ++k) store(uniform + k * kLanes, uniform_from_words(words.vector[k]));
    const int64_t end = std::min(begin + kBlock, count);
    for (int64_t i = std::max<int64_t>(begin, 0); i < end; ++i) {
      y[i] = T(uniform[i - begin] >= p.p ? static_cast<float>(x[i]) * scale : 0.0f);
    }
  }
}

}  // namespace

void dropout(Stream stream, const Dropout& p) {
  require(p.p >= 0.0f && p.p < 1.0f, "dropout: p is not in [0, 1)");
  if (p.p == 0.0f) {
    if (p.x != p.y) copy(stream, p.y, p.x, static_cast<size_t>(p.count) * size_of(p.dtype));
    return;
  }
  with_float_type(p.dtype, [&](auto type) {
    using T = decltype(type);
    const T* const x = static_cast<const T*>(p.x);
    T* const y = static_cast<T*>(p.y);
    parallel_for_ranges(p.count, kGrain, [=, &p](int64_t begin, int64_t end) {
      drop(x + begin, y + begin, end - begin, p, p.offset + static_cast<uint64_t>(begin));
    });
  });
}

}  // namespace engine::kernels::cpu
