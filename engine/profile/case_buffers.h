// What a case of kernel_cases.h works on: memory of a device, filled.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <vector>

#include "kernels/api/operations.h"

namespace engine {

using kernels::DType;

// Memory of one case on a device. Values are small and vary: zeros would be faster than life (a GPU
// that multiplies zeros draws less power and clocks higher), large ones would overflow.
class Buffers {
 public:
  explicit Buffers(const kernels::Stream& stream) : stream_(stream) {}

  const kernels::Stream& stream() const { return stream_; }
  const kernels::Operations& ops() const { return kernels::operations(stream_); }

  template <typename T = void>
  T* values(int64_t count, DType dtype) {
    std::vector<std::byte> host(static_cast<size_t>(count) * kernels::size_of(dtype));
    uint32_t state = 12345;
    for (int64_t i = 0; i < count; ++i) {
      state = state * 1664525u + 1013904223u;
      const float value = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
      if (dtype == DType::bf16) {
        const kernels::BFloat16 rounded(value);
        std::memcpy(host.data() + 2 * i, &rounded, sizeof rounded);
      } else {
        std::memcpy(host.data() + 4 * i, &value, sizeof value);
      }
    }
    return static_cast<T*>(upload(host.data(), host.size()));
  }
  // Written once here, so that no page is touched for the first time while something is measured.
  void* zeros(size_t bytes) {
    void* const data = take(bytes);
    ops().set_zero(stream_, data, bytes);
    return data;
  }
  float* zero_floats(int64_t count) {
    return static_cast<float*>(zeros(static_cast<size_t>(count) * sizeof(float)));
  }
  template <typename Function>
  int32_t* integers(int64_t count, const Function& value) {
    std::vector<int32_t> host(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) host[i] = static_cast<int32_t>(value(i));
    return static_cast<int32_t*>(upload(host.data(), host.size() * sizeof(int32_t)));
  }

 private:
  void* take(size_t bytes) {
    void* const data = ops().allocate(stream_, std::max<size_t>(bytes, 1));
    if (!data) throw std::bad_alloc();
    blocks_.emplace_back(data, [stream = stream_](void* block) {
      kernels::operations(stream).release(stream, block);
    });
    return data;
  }
  void* upload(const void* from, size_t bytes) {
    void* const data = take(bytes);
    ops().copy_to_device(stream_, data, from, bytes);
    ops().synchronize(stream_);  // `from` goes away
    return data;
  }

  kernels::Stream stream_;
  std::vector<std::shared_ptr<void>> blocks_;
};

// One call of an operation, by its member of the table.
template <auto operation, typename Arguments>
std::function<void()> call(const Buffers& buffers, const Arguments& arguments) {
  return [stream = buffers.stream(), arguments] {
    (kernels::operations(stream).*operation)(stream, arguments);
  };
}

}  // namespace engine
