#include "engine/profile/machine_rates.h"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "engine/profile/block.h"
#include "engine/profile/timing.h"
#include "kernels/api/operations.h"
#include "kernels/cpu/parallel.h"

namespace engine {

using kernels::DType;

namespace {

// Normally distributed enough: sums of uniforms. On a GPU the values change the clock.
std::vector<std::byte> random_values(int64_t count, DType dtype) {
  std::vector<std::byte> bytes(static_cast<size_t>(count) * kernels::size_of(dtype));
  uint32_t state = 1;
  for (int64_t i = 0; i < count; ++i) {
    float sum = 0;
    for (int j = 0; j < 3; ++j) {
      state = state * 1664525u + 1013904223u;
      sum += static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
    }
    if (dtype == DType::bf16) {
      const kernels::BFloat16 rounded(sum);
      std::memcpy(bytes.data() + 2 * i, &rounded, sizeof rounded);
    } else {
      std::memcpy(bytes.data() + 4 * i, &sum, sizeof sum);
    }
  }
  return bytes;
}

std::shared_ptr<void> device_block(const kernels::Stream& stream, size_t bytes) {
  const kernels::Operations& ops = kernels::operations(stream);
  void* const data = ops.allocate(stream, bytes);
  if (!data) throw std::bad_alloc();
  ops.set_zero(stream, data, bytes);
  return {data, [&ops, stream](void* block) { ops.release(stream, block); }};
}

}  // namespace

double measure_matmul_flops(DType dtype, int64_t size, const kernels::Stream& stream, bool tf32) {
  const kernels::Operations& ops = kernels::operations(stream);
  const int64_t count = size * size;
  const std::vector<std::byte> values = random_values(count, dtype);
  const auto a = device_block(stream, values.size()), b = device_block(stream, values.size());
  const auto d = device_block(stream, static_cast<size_t>(count) * sizeof(float));
  ops.copy_to_device(stream, a.get(), values.data(), values.size());
  ops.copy_to_device(stream, b.get(), values.data(), values.size());
  const kernels::Matmul product{.a = a.get(),
                                .b = b.get(),
                                .d = d.get(),
                                .m = size,
                                .n = size,
                                .k = size,
                                .transpose_b = true,
                                .input_dtype = dtype,
                                .output_dtype = DType::f32,
                                .allow_tf32 = tf32};
  const Timing timing = time_repeated(
      [&] {
        ops.matmul(stream, product);
        ops.synchronize(stream);
      },
      {.min_runs = 3, .max_runs = 20, .min_seconds = 1.0});
  return 2.0 * static_cast<double>(size) * static_cast<double>(size) * static_cast<double>(size) /
         timing.minimum;
}

namespace {

double measure_device_copy(const kernels::Stream& stream, size_t bytes) {
  const kernels::Operations& ops = kernels::operations(stream);
  const auto from = device_block(stream, bytes), to = device_block(stream, bytes);
  const Timing timing = time_repeated(
      [&] {
        ops.copy(stream, to.get(), from.get(), bytes);
        ops.synchronize(stream);
      },
      {.min_runs = 5, .max_runs = 200, .min_seconds = 0.5});
  return 2.0 * static_cast<double>(bytes) / timing.minimum;
}

}  // namespace

double datasheet_flops(const std::string& gpu_name, DType dtype) {
  struct Rates {
    const char* name;
    double bf16, fp32;  // fp32: without tensor cores
  };
  static constexpr Rates kRates[] = {{"H200", 989.4e12, 66.9e12},    {"H100 PCIe", 756e12, 51.2e12},
                                     {"H100", 989.4e12, 66.9e12},    {"A100", 312e12, 19.5e12},
                                     {"L40S", 362e12, 91.6e12},      {"L4", 121e12, 30.3e12},
                                     {"RTX 4090", 165.2e12, 82.6e12}};
  for (const Rates& rates : kRates) {
    if (gpu_name.find(rates.name) != std::string::npos) {
      return dtype == DType::bf16 ? rates.bf16 : rates.fp32;
    }
  }
  return 0;
}

MemoryRates measure_memory(const kernels::Stream& stream, size_t bytes) {
  if (stream.device == kernels::DeviceType::cuda) {
    return {.copy = measure_device_copy(stream, bytes)};
  }
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

MachineRates measure_rates(const kernels::Stream& stream, DType dtype, bool tf32) {
  const int64_t size = stream.device == kernels::DeviceType::cuda ? 8192 : 4096;
  const MemoryRates memory = measure_memory(stream);
  return {.flops = measure_matmul_flops(dtype, size, stream, tf32),
          .matmul_size = size,
          .memory = memory};
}

double load_average() {
  double load = 0;
  return getloadavg(&load, 1) == 1 ? load : -1;
}

}  // namespace engine
