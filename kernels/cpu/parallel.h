// Threads of the CPU device. Work is cut into pieces whose number and bounds depend on the shape
// alone; threads take pieces. So no sum depends on how many threads there are.
#pragma once

#include <omp.h>

#include <cstdint>

namespace engine::kernels::cpu {

// Calls body(i) for i in [0, count), on all threads. Nested calls run serially.
template <typename Body>
void parallel_for(int64_t count, const Body& body) {
  if (count <= 1 || omp_in_parallel()) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t i = 0; i < count; ++i) body(i);
}

// Calls body(begin, end) over [0, count) in pieces of `grain`.
template <typename Body>
void parallel_for_ranges(int64_t count, int64_t grain, const Body& body) {
  const int64_t pieces = (count + grain - 1) / grain;
  parallel_for(pieces, [&](int64_t piece) {
    const int64_t begin = piece * grain;
    body(begin, begin + grain < count ? begin + grain : count);
  });
}

}  // namespace engine::kernels::cpu
