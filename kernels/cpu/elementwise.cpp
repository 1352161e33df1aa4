#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "kernels/cpu/convert.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/parallel.h"

namespace engine::kernels::cpu {
namespace {

constexpr int64_t kGrain = 1 << 15;      // elements of one piece
constexpr int64_t kByteGrain = 1 << 18;  // bytes of one piece

}  // namespace

void add(Stream, const Add& p) {
  with_float_type(p.a_dtype, [&](auto a_type) {
    with_float_type(p.b_dtype, [&](auto b_type) {
      with_float_type(p.out_dtype, [&](auto out_type) {
        const auto* a = static_cast<const decltype(a_type)*>(p.a);
        const auto* b = static_cast<const decltype(b_type)*>(p.b);
        auto* out = static_cast<decltype(out_type)*>(p.out);
        parallel_for_ranges(p.count, kGrain, [=](int64_t begin, int64_t end) {
          for_vectors(end - begin, [=](int64_t k, auto lanes) {
            const int64_t i = begin + k;
            store(out + i, load(a + i, lanes) + load(b + i, lanes), lanes);
          });
        });
      });
    });
  });
}

void cast(Stream stream, const Cast& p) {
  if (p.from == p.to && p.scale == 1.0f) {
    copy(stream, p.out, p.x, static_cast<size_t>(p.count) * size_of(p.from));
    return;
  }
  with_float_type(p.from, [&](auto from_type) {
    with_float_type(p.to, [&](auto to_type) {
      const auto* x = static_cast<const decltype(from_type)*>(p.x);
      auto* out = static_cast<decltype(to_type)*>(p.out);
      parallel_for_ranges(p.count, kGrain, [=, scale = p.scale](int64_t begin, int64_t end) {
        if (scale == 1.0f) {
          convert_row(x + begin, out + begin, end - begin);
          return;
        }
        for_vectors(end - begin, [=](int64_t k, auto lanes) {
          store(out + begin + k, scale * load(x + begin + k, lanes), lanes);
        });
      });
    });
  });
}

void find_nonfinite(Stream, const FindNonfinite& p) {
  with_float_type(p.dtype, [&](auto type) {
    const auto* x = static_cast<const decltype(type)*>(p.x);
    std::atomic<int64_t> first{p.count};
    parallel_for_ranges(p.count, kGrain, [&](int64_t begin, int64_t end) {
      if (begin > first.load(std::memory_order_relaxed)) return;
      // x - x is 0 for finite x, else NaN; a NaN in the sum stays
      F32x16 sum = {};
      for_vectors(end - begin, [&](int64_t k, auto lanes) {
        const F32x16 v = load(x + begin + k, lanes);
        sum += v - v;
      });
      if (sum_of_lanes(sum) == 0.0f) return;
      int64_t i = begin;
      while (static_cast<float>(x[i]) - static_cast<float>(x[i]) == 0.0f) ++i;
      int64_t known = first.load();
      while (i < known && !first.compare_exchange_weak(known, i)) {
      }
    });
    *p.index = first == p.count ? -1 : first.load();
  });
}

void set_zero(Stream, void* data, size_t bytes) {
  auto* const to = static_cast<std::byte*>(data);
  parallel_for_ranges(static_cast<int64_t>(bytes), kByteGrain, [=](int64_t begin, int64_t end) {
    std::memset(to + begin, 0, static_cast<size_t>(end - begin));
  });
}

void copy(Stream, void* to, const void* from, size_t bytes) {
  auto* const target = static_cast<std::byte*>(to);
  const auto* const source = static_cast<const std::byte*>(from);
  parallel_for_ranges(static_cast<int64_t>(bytes), kByteGrain, [=](int64_t begin, int64_t end) {
    std::memcpy(target + begin, source + begin, static_cast<size_t>(end - begin));
  });
}

void synchronize(Stream) {}  // operations have finished when they return

void* allocate(Stream, size_t bytes) {
  // Large blocks start on a huge page and ask for them: fewer TLB misses in matmul and AdamW.
  constexpr size_t kCacheLine = 64, kHugePage = size_t{2} << 20;
  const bool large = bytes >= 2 * kHugePage;
  const size_t alignment = large ? kHugePage : kCacheLine;
  void* const data = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (data && large) madvise(data, bytes, MADV_HUGEPAGE);
  return data;
}

void release(Stream, void* data) {
  std::free(data);
}

}  // namespace engine::kernels::cpu
