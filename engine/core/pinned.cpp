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

void Staging::upload(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  const kernels::Operations& ops = kernels::operations(stream_);
  if (bytes > kLargest) {
    ops.copy_to_device(stream_, to, from, bytes);
    return;
  }
  buffer_.reserve(kCapacity);
  constexpr size_t kAlignment = 64;
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (used_ + rounded > kCapacity) {
    ops.synchronize(stream_);
    used_ = 0;
  }
  char* const place = buffer_.as<char>() + used_;
  used_ += rounded;
  std::memcpy(place, from, bytes);
  ops.copy_to_device(stream_, to, place, bytes);
}

}  // namespace engine
