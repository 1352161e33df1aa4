// A dense, row-major array on a device, and the runtime that makes them.
#pragma once

#include <cstring>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "engine/core/memory.h"
#include "engine/core/pinned.h"
#include "kernels/api/operations.h"

namespace engine {

using kernels::DType;

// Dimensions, outermost first. At most four: [tokens, heads, head_dim] is the deepest we need.
class Shape {
 public:
  static constexpr int kMaxRank = 4;
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims);
  explicit Shape(const std::vector<int64_t>& dims);

  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[i < 0 ? rank_ + i : i]; }
  int64_t count() const;
  std::vector<int64_t> vector() const { return {dims_, dims_ + rank_}; }
  std::string str() const;  // "[2048,768]"
  bool operator==(const Shape& other) const;

 private:
  int64_t dims_[kMaxRank] = {};
  int rank_ = 0;
};

// A handle: copies share the memory, the last one gives it back. An empty tensor has no memory.
class Tensor {
 public:
  Tensor() = default;

  explicit operator bool() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  DType dtype() const { return dtype_; }
  int64_t count() const { return shape_.count(); }
  size_t bytes() const { return static_cast<size_t>(count()) * kernels::size_of(dtype_); }
  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  // Rows and columns of the array seen as a matrix: the last dimension is a row.
  int64_t columns() const { return shape_.rank() ? shape_[-1] : 1; }
  int64_t rows() const { return columns() ? count() / columns() : 0; }

  // The same memory with another shape of the same count.
  Tensor reshaped(const Shape& shape) const;
  // `count` elements from `offset` on, as `shape`.
  Tensor slice(int64_t offset, const Shape& shape) const;
  // Is this the only handle on its memory?
  bool unique() const { return storage_.use_count() == 1; }

 private:
  friend class Runtime;
  struct Storage {
    Memory* memory;
    Memory::Block block;
    Storage(Memory* owner, const Memory::Block& taken) : memory(owner), block(taken) {}
    Storage(const Storage&) = delete;
    Storage& operator=(const Storage&) = delete;
    ~Storage() { memory->release(block); }
  };
  std::shared_ptr<Storage> storage_;
  void* data_ = nullptr;
  Shape shape_;
  DType dtype_ = DType::f32;
};

// A device with its memory and a queue of its own: everything that runs operations takes one.
// Operations are started in order and, on a GPU, return before they are done; what waits says so.
class Runtime {
 public:
  // Stream::handle is made here: the argument names the device (and, for meta, the planned one).
  explicit Runtime(const kernels::Stream& device);
  explicit Runtime(kernels::DeviceType device) : Runtime(kernels::Stream{.device = device}) {}

  Memory& memory() { return memory_; }
  kernels::Stream stream() const { return queue_.stream; }
  const kernels::Operations& ops() const { return kernels::operations(queue_.stream); }
  bool is_meta() const { return queue_.stream.device == kernels::DeviceType::meta; }

  // Uninitialised arrays.
  Tensor transient(const Shape& shape, DType dtype,
                   MemoryCategory category = MemoryCategory::activations);
  Tensor workspace(size_t bytes);
  Tensor persistent(const Shape& shape, DType dtype, MemoryCategory category);

  void zero(const Tensor& tensor) { ops().set_zero(stream(), tensor.data(), tensor.bytes()); }
  // `from` may be changed as soon as it returns.
  void upload(const Tensor& to, const void* from);
  template <typename T>
  Tensor upload_vector(const std::vector<T>& values, DType dtype,
                       MemoryCategory category = MemoryCategory::batch) {
    Tensor tensor = transient({static_cast<int64_t>(values.size())}, dtype, category);
    upload(tensor, values.data());
    return tensor;
  }
  // fp32 copy on the host of an f32 or bf16 tensor; waits for it. Zeros on the meta device.
  std::vector<float> download(const Tensor& tensor) const;
  // The same for i32.
  std::vector<int32_t> download_ints(const Tensor& tensor) const;
  // Starts copying to pinned memory, which holds the tensor after the next synchronize() or
  // download. The tensor's memory may be used again at once.
  void download_later(const Tensor& tensor, void* pinned) const {
    ops().copy_to_host_async(stream(), pinned, tensor.data(), tensor.bytes());
  }
  void synchronize() const;

 private:
  struct Queue {
    kernels::Stream stream;
    explicit Queue(const kernels::Stream& device);
    ~Queue();
    Queue(const Queue&) = delete;
    Queue& operator=(const Queue&) = delete;
  };

  Tensor make(const Shape& shape, DType dtype, MemoryCategory category, bool persistent);
  void copy_to_host(void* to, const Tensor& from) const;

  Queue queue_;  // first: memory is given back before it ends
  Memory memory_;
  std::unique_ptr<Staging> staging_;  // null where an upload is a copy in the host's memory
};

}  // namespace engine
