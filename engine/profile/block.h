// Memory for measurements, as the engine's own: aligned, large blocks on huge pages.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>

namespace engine {

// Zeroed, so that no page is touched for the first time while something is measured.
inline std::shared_ptr<std::byte> zeroed_block(size_t bytes) {
  constexpr size_t kHugePage = size_t{2} << 20;
  const bool large = bytes >= 2 * kHugePage;
  const std::align_val_t alignment{large ? kHugePage : 64};
  auto* data = static_cast<std::byte*>(::operator new(bytes, alignment));
  if (large) madvise(data, bytes, MADV_HUGEPAGE);
  std::memset(data, 0, bytes);
  return {data, [alignment](std::byte* block) { ::operator delete(block, alignment); }};
}

}  // namespace engine
