#include "kernels/cpu/convert.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/parallel.h"

namespace engine::kernels::cpu {

void rope(Stream, const Rope& p) {
  require(p.head_dim % 2 == 0, "rope: head_dim is odd");
  const int64_t half = p.head_dim / 2;
  const float sign = p.inverse ? -1.0f : 1.0f;
  with_float_type(p.dtype, [&](auto type) {
    using T = decltype(type);
    parallel_for_ranges(p.tokens, 16, [&](int64_t begin, int64_t end) {
      for (int64_t token = begin; token < end; ++token) {
        T* const heads = static_cast<T*>(p.x) + token * p.stride;
        const float* const cos_row = p.cos + p.positions[token] * half;
        const float* const sin_row = p.sin + p.positions[token] * half;
        // Columns outside, heads inside: a token's heads stay in L1, its angles in registers.
        for_vectors(half, [&](int64_t i, auto lanes) {
          const F32x16 c = load(cos_row + i, lanes), s = load(sin_row + i, lanes) * sign;
          for (int head = 0; head < p.num_heads; ++head) {
            T* const x1 = heads + int64_t{head} * p.head_dim + i;
            T* const x2 = x1 + half;
            const F32x16 a = load(x1, lanes), b = load(x2, lanes);
            store(x1, a * c - b * s, lanes);
            store(x2, b * c + a * s, lanes);
          }
        });
      }
    });
  });
}

}  // namespace engine::kernels::cpu
