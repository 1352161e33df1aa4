// Host memory that a GPU copies from and to by itself, while the host goes on.
#pragma once

#include <cstddef>

#include "kernels/api/types.h"

namespace engine {

// One block. Must live until the copies that use it are complete (Operations::synchronize).
class PinnedBuffer {
 public:
  explicit PinnedBuffer(const kernels::Stream& stream) : stream_(stream) {}
  ~PinnedBuffer() { release(); }
  PinnedBuffer(const PinnedBuffer&) = delete;
  PinnedBuffer& operator=(const PinnedBuffer&) = delete;

  // Makes room for `bytes`; the content is lost when it grows. No copy may be under way. Throws
  // Error MEM-ALLOC (out_of_memory).
  void reserve(size_t bytes);
  size_t bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void release();

  kernels::Stream stream_;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Small uploads (token ids) that do not wait for the device: each is copied to a place of its own
// in pinned memory, and from there by the device when its turn comes. There are two buffers: while
// the device reads one, the other is filled, and filling waits only for the device to be done with
// what was uploaded a whole buffer ago.
class Staging {
 public:
  explicit Staging(const kernels::Stream& stream);
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  static constexpr size_t kBuffer = size_t{4} << 20;
  static constexpr size_t kCapacity = 2 * kBuffer;
  // Larger ones go straight from the caller's memory: the driver's own staging is as good there.
  static constexpr size_t kLargest = size_t{1} << 20;

  void upload(void* to, const void* from, size_t bytes);
  // All uploads so far are complete.
  void synchronized();

 private:
  struct Buffer {
    PinnedBuffer memory;
    void* event;          // behind its last upload
    bool in_use = false;  // the event may not have passed
  };
  kernels::Stream stream_;
  Buffer buffers_[2];
  int current_ = 0;
  size_t used_ = 0;
};

}  // namespace engine
