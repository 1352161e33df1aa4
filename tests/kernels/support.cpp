#include "tests/kernels/support.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numbers>

#include "tests/support/devices.h"

#include "kernels/simt/launch.h"

namespace engine::kernels::testing {
namespace {

constexpr size_t kCanaryBytes = 256;

double largest(const Values& values) {
  double result = 0;
  for (double value : values) result = std::max(result, std::abs(value));
  return result;
}

}  // namespace

std::vector<DeviceType> test_devices() {
  return engine::testing::test_devices();
}

double rounded(DType dtype, double value) {
  switch (dtype) {
    case DType::f32:
      return static_cast<float>(value);
    case DType::bf16:
      return static_cast<float>(BFloat16(static_cast<float>(value)));
    default:
      return value;
  }
}

Values rounded(DType dtype, Values values) {
  for (double& value : values) value = rounded(dtype, value);
  return values;
}

DeviceArray::DeviceArray(Stream stream, DType dtype, int64_t count)
    : stream_(stream), dtype_(dtype), count_(count) {
  const std::vector<std::byte> poison(kCanaryBytes + count * size_of(dtype) + kCanaryBytes,
                                      std::byte{0xFF});
  allocation_ = operations(stream).allocate(stream, poison.size());
  operations(stream).copy_to_device(stream, allocation_, poison.data(), poison.size());
  data_ = static_cast<std::byte*>(allocation_) + kCanaryBytes;
}

DeviceArray::DeviceArray(Stream stream, DType dtype, const Values& values)
    : DeviceArray(stream, dtype, static_cast<int64_t>(values.size())) {
  std::vector<std::byte> host(values.size() * size_of(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    std::byte* const to = host.data() + i * size_of(dtype);
    const auto put = [&](auto value) { std::memcpy(to, &value, sizeof value); };
    switch (dtype) {
      case DType::f32:
        put(static_cast<float>(values[i]));
        break;
      case DType::bf16:
        put(BFloat16(static_cast<float>(values[i])));
        break;
      case DType::i32:
        put(static_cast<int32_t>(values[i]));
        break;
      case DType::i64:
        put(static_cast<int64_t>(values[i]));
        break;
      case DType::u8:
        put(static_cast<uint8_t>(values[i]));
        break;
    }
  }
  if (!host.empty()) operations(stream).copy_to_device(stream, data_, host.data(), host.size());
}

DeviceArray::~DeviceArray() {
  const size_t bytes = static_cast<size_t>(count_) * size_of(dtype_);
  std::vector<std::byte> canary(kCanaryBytes);
  const auto untouched = [&](const std::byte* from) {
    operations(stream_).copy_to_host(stream_, canary.data(), from, canary.size());
    return std::all_of(canary.begin(), canary.end(),
                       [](std::byte byte) { return byte == std::byte{0xFF}; });
  };
  const auto* const start = static_cast<const std::byte*>(allocation_);
  EXPECT_TRUE(untouched(start)) << "the kernel wrote before an array of " << count_;
  EXPECT_TRUE(untouched(start + kCanaryBytes + bytes))
      << "the kernel wrote past an array of " << count_;
  operations(stream_).release(stream_, allocation_);
}

std::vector<std::byte> DeviceArray::bytes() const {
  std::vector<std::byte> host(static_cast<size_t>(count_) * size_of(dtype_));
  if (!host.empty()) {
    operations(stream_).copy_to_host(stream_, host.data(), data_, host.size());
  }
  return host;
}

Values DeviceArray::values() const {
  const std::vector<std::byte> host = bytes();
  Values values(static_cast<size_t>(count_));
  for (size_t i = 0; i < values.size(); ++i) {
    const std::byte* const from = host.data() + i * size_of(dtype_);
    const auto get = [&](auto value) {
      std::memcpy(&value, from, sizeof value);
      return value;
    };
    switch (dtype_) {
      case DType::f32:
        values[i] = get(float{});
        break;
      case DType::bf16:
        values[i] = static_cast<float>(get(BFloat16{}));
        break;
      case DType::i32:
        values[i] = get(int32_t{});
        break;
      case DType::i64:
        values[i] = static_cast<double>(get(int64_t{}));
        break;
      case DType::u8:
        values[i] = get(uint8_t{});
        break;
    }
  }
  return values;
}

double Random::uniform() {
  return static_cast<double>(generator_() >> 11) * 0x1p-53;
}

Values Random::normal(int64_t count, DType dtype, double scale) {
  Values values(static_cast<size_t>(count));
  for (double& value : values) {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    value = rounded(dtype, scale * radius * std::cos(2.0 * std::numbers::pi * uniform()));
  }
  return values;
}

Values Random::uniform(int64_t count, DType dtype, double low, double high) {
  Values values(static_cast<size_t>(count));
  for (double& value : values) value = rounded(dtype, low + (high - low) * uniform());
  return values;
}

Values Random::integers(int64_t count, int64_t low, int64_t high) {
  Values values(static_cast<size_t>(count));
  for (double& value : values) {
    value = static_cast<double>(
        low + static_cast<int64_t>(generator_() % static_cast<uint64_t>(high - low + 1)));
  }
  return values;
}

double ulp(DType dtype, double value) {
  const int digits = dtype == DType::bf16 ? 8 : 24;
  if (value == 0) return std::numeric_limits<float>::denorm_min();
  int exponent;
  std::frexp(value, &exponent);
  return std::ldexp(1.0, std::max(exponent - digits, -149));
}

void expect_close(const Values& actual, DType dtype, const Values& reference, const Values& twin,
                  const std::string& what) {
  ASSERT_EQ(actual.size(), reference.size()) << what;
  ASSERT_EQ(twin.size(), reference.size()) << what;
  double error = 0, twin_error = 0, squares = 0, twin_squares = 0, reference_squares = 0;
  size_t worst = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_TRUE(std::isfinite(reference[i])) << what << ": bad reference at " << i;
    ASSERT_TRUE(std::isfinite(actual[i]))
        << what << "[" << i << "] is " << actual[i] << ", expected " << reference[i];
    const double difference = std::abs(actual[i] - reference[i]);
    if (difference > error) {
      error = difference;
      worst = i;
    }
    const double twin_difference = std::abs(twin[i] - reference[i]);
    twin_error = std::max(twin_error, twin_difference);
    twin_squares += twin_difference * twin_difference;
    squares += difference * difference;
    reference_squares += reference[i] * reference[i];
  }
  if (actual.empty()) return;
  // An fp32 twin rounds in an order of its own and may be lucky on a small array.
  const double ulps = dtype == DType::bf16 ? 1 : 4;
  const double bound = 2 * twin_error + ulps * ulp(dtype, largest(reference));
  EXPECT_LE(error, bound) << what << "[" << worst << "] is " << actual[worst] << ", expected "
                          << reference[worst] << " (" << actual.size() << " elements)";
  if (reference_squares > 0) {
    const double limit = std::max(dtype == DType::bf16 ? 4e-3 : 1e-5,
                                  2 * std::sqrt(twin_squares / reference_squares));
    EXPECT_LE(std::sqrt(squares / reference_squares), limit) << what << ": Frobenius";
  }
}

void expect_close(const DeviceArray& actual, const Values& reference, const Values& twin,
                  const std::string& what) {
  expect_close(actual.values(), actual.dtype(), reference, twin, what);
}

void expect_close(const DeviceArray& actual, const Values& reference, const std::string& what) {
  expect_close(actual, reference, rounded(actual.dtype(), reference), what);
}

void expect_equal(const Values& actual, const Values& expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(actual[i], expected[i]) << what << "[" << i << "] of " << actual.size();
  }
}

void expect_gradient(const std::function<double(const Values&)>& loss, const Values& x,
                     const Values& gradient, const std::string& what, double tolerance) {
  ASSERT_EQ(x.size(), gradient.size()) << what;
  const size_t stride = std::max<size_t>(1, x.size() / 64);
  const double size = std::max(1.0, largest(gradient));
  for (size_t i = 0; i < x.size(); i += stride) {
    // 1e-5 balances truncation (step²) and cancellation (1e-16 / step)
    const double step = 1e-5 * std::max(1.0, std::abs(x[i]));
    Values moved = x;
    moved[i] = x[i] + step;
    const double above = loss(moved);
    moved[i] = x[i] - step;
    const double below = loss(moved);
    EXPECT_NEAR(gradient[i], (above - below) / (2 * step), tolerance * size)
        << what << "[" << i << "]";
  }
}

double dot(const Values& a, const Values& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

void expect_same_on_any_thread_count(const std::function<Bytes()>& body) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const Bytes expected = body();
  for (int threads : {2, 3, 5}) {
    omp_set_num_threads(threads);
    EXPECT_TRUE(body() == expected) << "bits differ between 1 and " << threads << " threads";
  }
  omp_set_num_threads(before);
}

namespace {

// Copies within the memory of a GPU, on a queue of their own: what runs beside them finds its
// requests served in another order every time.
class MemoryTraffic {
 public:
  explicit MemoryTraffic(const Stream& stream) : stream_(stream) {
    if (stream.device != DeviceType::cuda) return;
    stream_.handle = operations(stream).create_stream(stream);
    memory_ = static_cast<std::byte*>(operations(stream_).allocate(stream_, 2 * kBytes));
  }
  ~MemoryTraffic() {
    if (stream_.device != DeviceType::cuda) return;
    operations(stream_).synchronize(stream_);
    operations(stream_).release(stream_, memory_);
    operations(stream_).destroy_stream(stream_);
  }
  MemoryTraffic(const MemoryTraffic&) = delete;
  MemoryTraffic& operator=(const MemoryTraffic&) = delete;

  // Some milliseconds of it.
  void start() {
    if (!memory_) return;
    for (int i = 0; i < 16; ++i)
      operations(stream_).copy(stream_, memory_, memory_ + kBytes, kBytes);
  }

 private:
  static constexpr size_t kBytes = size_t{256} << 20;
  Stream stream_;
  std::byte* memory_ = nullptr;
};

int repetitions() {
  const char* const text = std::getenv("ENGINE_TEST_REPETITIONS");
  return text ? std::atoi(text) : 5;
}

}  // namespace

void expect_repeatable(const Stream& stream, const std::function<Bytes()>& body) {
  const simt::Schedule before = simt::current_schedule();
  MemoryTraffic traffic(stream);
  const Bytes expected = body();
  for (int i = 1; i < repetitions(); ++i) {
    // On the software GPU: orders of threads, warps and blocks that differ.
    simt::Schedule schedule{simt::Completion::eager};
    if (i > 1) schedule = {simt::Completion::random, static_cast<uint64_t>(i)};
    simt::set_schedule(schedule);
    traffic.start();
    EXPECT_TRUE(body() == expected)
        << "bits differ in repetition " << i
        << (stream.device == DeviceType::simt ? ", schedule " + simt::to_string(schedule) : "");
  }
  simt::set_schedule(before);
}

Bytes bytes_of(std::initializer_list<const DeviceArray*> arrays) {
  Bytes all;
  for (const DeviceArray* array : arrays) {
    const Bytes bytes = array->bytes();
    all.insert(all.end(), bytes.begin(), bytes.end());
  }
  return all;
}

}  // namespace engine::kernels::testing
