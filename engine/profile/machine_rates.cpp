#include "engine/profile/machine_rates.h"

#include <cstring>

#include "engine/profile/block.h"
#include "engine/profile/timing.h"
#include "kernels/api/operations.h"
#include "kernels/cpu/parallel.h"

namespace engine {

using kernels::DType;

double measure_matmul_flops(DType dtype, int64_t size) {
  const kernels::Stream stream;
  const kernels::Operations& ops = kernels::operations(stream);
  const size_t count = static_cast<size_t>(size * size), bytes = count * kernels::size_of(dtype);
  const auto a = zeroed_block(bytes), b = zeroed_block(bytes);  // values do not change the rate
  const auto d = zeroed_block(count * sizeof(float));
  const kernels::Matmul product{.a = a.get(),
                                .b = b.get(),
                                .d = d.get(),
                                .m = size,
                                .n = size,
                                .k = size,
                                .transpose_b = true,
                                .input_dtype = dtype,
                                .output_dtype = DType::f32};
  const Timing timing = time_repeated([&] { ops.matmul(stream, product); },
                                      {.min_runs = 3, .max_runs = 20, .min_seconds = 1.0});
  return 2.0 * static_cast<double>(size) * static_cast<double>(size) * static_cast<double>(size) /
         timing.minimum;
}

MemoryRates measure_memory(size_t bytes) {
  constexpr int64_t kPiece = 1 << 18;  // floats: 1 MiB
  const int64_t count = static_cast<int64_t>(bytes / sizeof(float)) / 2;
  const auto storage = zeroed_block(static_cast<size_t>(2 * count) * sizeof(float));
  auto* const a = reinterpret_cast<float*>(storage.get());
  float* const b = a + count;
  const RepeatOptions repeat{.min_runs = 5, .max_runs = 50, .min_seconds = 0.5};
  const Timing copy = time_repeated(
      [&] {
        kernels::cpu::parallel_for_ranges(count, kPiece, [&](int64_t begin, int64_t end) {
          std::memcpy(a + begin, b + begin, static_cast<size_t>(end - begin) * sizeof(float));
        });
      },
      repeat);
  const Timing update = time_repeated(
      [&] {
        kernels::cpu::parallel_for_ranges(2 * count, kPiece, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) a[i] = 1.0001f * a[i];
        });
      },
      repeat);
  const double floats = 2.0 * static_cast<double>(count) * sizeof(float);
  return {.copy = floats / copy.minimum, .update = 2.0 * floats / update.minimum};
}

}  // namespace engine
