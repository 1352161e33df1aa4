// What every kernel test uses: devices, arrays with canaries, random inputs, and error measures.
//
//   ENGINE_KERNEL_TEST_SUITE(RopeTest);
//   TEST_P(RopeTest, RotatesByPosition) {
//     DeviceArray x(stream(), DType::bf16, random.normal(count, DType::bf16));
//     ops().rope(stream(), {.x = x.data(), ...});
//     expect_close(x, reference, twin, "x");
//   }
//
// Values travel as fp64, which holds every f32, bf16 and i32 exactly.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/api/operations.h"

namespace engine::kernels::testing {

// Devices that the suites run on.
std::vector<DeviceType> test_devices();

class KernelTest : public ::testing::TestWithParam<DeviceType> {
 protected:
  Stream stream() const { return {.device = GetParam()}; }
  const Operations& ops() const { return operations(GetParam()); }
  // The software GPU is some hundred times slower: fewer or smaller cases, never other checks.
  bool simulated() const { return GetParam() == DeviceType::simt; }
  // A GPU: cases that fill it, where the order of blocks could matter.
  bool on_gpu() const { return GetParam() == DeviceType::cuda; }
};

#define ENGINE_KERNEL_TEST_SUITE(Suite)                                                \
  class Suite : public ::engine::kernels::testing::KernelTest {};                      \
  INSTANTIATE_TEST_SUITE_P(                                                            \
      Devices, Suite, ::testing::ValuesIn(::engine::kernels::testing::test_devices()), \
      [](const auto& device) { return ::engine::kernels::name_of(device.param); })

using Values = std::vector<double>;

// `value` rounded to dtype (i32 and others: unchanged).
double rounded(DType dtype, double value);
Values rounded(DType dtype, Values values);

// An array on the device between two canaries: 256 bytes of 0xFF (NaN in f32 and bf16) on both
// sides. The destructor fails the test when a canary was written; reading one spreads NaN.
class DeviceArray {
 public:
  DeviceArray(Stream stream, DType dtype, int64_t count);  // every byte 0xFF
  DeviceArray(Stream stream, DType dtype, const Values& values);
  ~DeviceArray();
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  int64_t count() const { return count_; }
  DType dtype() const { return dtype_; }
  Values values() const;
  std::vector<std::byte> bytes() const;

 private:
  Stream stream_;
  DType dtype_;
  int64_t count_;
  void* allocation_;
  void* data_;
};

// The same numbers on every machine (std:: distributions are not).
class Random {
 public:
  explicit Random(uint64_t seed) : generator_(seed) {}
  Values normal(int64_t count, DType dtype, double scale = 1.0);
  Values uniform(int64_t count, DType dtype, double low, double high);
  Values integers(int64_t count, int64_t low, int64_t high);  // both ends included
  double uniform();                                           // in [0, 1)

 private:
  std::mt19937_64 generator_;
};

// Distance from 1 ulp upwards of a value of this size, in dtype.
double ulp(DType dtype, double value);

// The twin rule. `twin` computes the reference formula but rounds where the contract says that the
// kernel rounds; without one, the twin is the reference rounded to the output's dtype.
//   max|actual - reference| <= 2 max|twin - reference| + ulps of max|reference|: 1 (bf16), 4 (f32)
//   ‖actual - reference‖ / ‖reference‖ <= 4e-3 (bf16) or 1e-5 (f32), or twice the twin's where
//                                       the formula itself cancels more than that
// Infinities and NaN fail.
void expect_close(const Values& actual, DType dtype, const Values& reference, const Values& twin,
                  const std::string& what);
void expect_close(const DeviceArray& actual, const Values& reference, const Values& twin,
                  const std::string& what);
void expect_close(const DeviceArray& actual, const Values& reference, const std::string& what);

// Equal in every element; says where the first difference is.
void expect_equal(const Values& actual, const Values& expected, const std::string& what);

// Central differences of `loss` at x, in fp64, against `gradient`; at most 64 coordinates, spread
// over x. Checks the references' backwards, never a kernel.
void expect_gradient(const std::function<double(const Values&)>& loss, const Values& x,
                     const Values& gradient, const std::string& what, double tolerance = 1e-6);

// Σ a·b: the loss whose gradient with respect to a is b.
double dot(const Values& a, const Values& b);

// body's bytes under 1, 2, 3 and 5 OpenMP threads are the same.
using Bytes = std::vector<std::byte>;
void expect_same_on_any_thread_count(const std::function<Bytes()>& body);
// body's bytes are the same in every repetition: on the software GPU under any schedule, on a GPU
// beside copies that keep its memory busy. Five of them, or what ENGINE_TEST_REPETITIONS says.
void expect_repeatable(const Stream& stream, const std::function<Bytes()>& body);
// Bytes of several arrays, one after the other.
Bytes bytes_of(std::initializer_list<const DeviceArray*> arrays);

}  // namespace engine::kernels::testing
