#include "engine/core/pinned.h"

#include <fmt/format.h>

#include <cstring>

#include "engine/core/error.h"
#include "kernels/api/operations.h"

namespace engine {

void PinnedBuffer::reserve(size_t bytes) {
  if (bytes <= bytes_) return;
  release();
  data_ = kernels::operations(stream_).allocate_pinned(stream_, bytes);
  if (!data_) {
    throw Error(ExitCode::out_of_memory, "MEM-ALLOC",
                fmt::format("the system refused {:.1f} MiB of pinned memory",
                            static_cast<double>(bytes) / (1 << 20)))
        .fix("close other programs, or raise the limit of locked memory (ulimit -l)");
  }
  bytes_ = bytes;
}

void PinnedBuffer::release() {
  if (data_) kernels::operations(stream_).release_pinned(stream_, data_);
  data_ = nullptr;
  bytes_ = 0;
}

Staging::Staging(const kernels::Stream& stream)
    : stream_(stream),
      buffers_{{PinnedBuffer(stream), kernels::operations(stream).create_event(stream)},
               {PinnedBuffer(stream), kernels::operations(stream).create_event(stream)}} {}

Staging::~Staging() {
  const kernels::Operations& ops = kernels::operations(stream_);
  for (Buffer& buffer : buffers_) {
    if (buffer.in_use) ops.wait_event(stream_, buffer.event);
    ops.destroy_event(stream_, buffer.event);
  }
}

void Staging::upload(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  const kernels::Operations& ops = kernels::operations(stream_);
  if (bytes > kLargest) {
    ops.copy_to_device(stream_, to, from, bytes);
    return;
  }
  constexpr size_t kAlignment = 64;
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (used_ + rounded > kBuffer) {
    ops.record_event(stream_, buffers_[current_].event);
    buffers_[current_].in_use = true;
    current_ = 1 - current_;
    used_ = 0;
    Buffer& next = buffers_[current_];
    if (next.in_use) ops.wait_event(stream_, next.event);
    next.in_use = false;
  }
  PinnedBuffer& buffer = buffers_[current_].memory;
  buffer.reserve(kBuffer);
  char* const place = buffer.as<char>() + used_;
  used_ += rounded;
  std::memcpy(place, from, bytes);
  ops.copy_to_device(stream_, to, place, bytes);
}

void Staging::synchronized() {
  for (Buffer& buffer : buffers_) buffer.in_use = false;
  used_ = 0;
}

}  // namespace engine
