// Memory of a thread that is kept between calls.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace engine::kernels::cpu {

// Grows and is never given back: packing into fresh pages would cost as much as the
// multiplication. Large ones lie on huge pages.
class Scratch {
 public:
  void* reserve(size_t bytes) {
    if (bytes > capacity_) {
      constexpr size_t kHugePage = size_t{2} << 20;
      const size_t align = bytes >= kHugePage ? kHugePage : 64;
      const size_t size = (bytes + align - 1) / align * align;
      memory_.reset(std::aligned_alloc(align, size));
      capacity_ = memory_ ? size : 0;
      if (!memory_) throw std::bad_alloc();
#if defined(__linux__)
      if (align == kHugePage) madvise(memory_.get(), size, MADV_HUGEPAGE);
#endif
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory_;
  size_t capacity_ = 0;
};

}  // namespace engine::kernels::cpu
