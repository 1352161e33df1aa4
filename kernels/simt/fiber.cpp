#include "kernels/simt/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define ENGINE_ASAN 1
#else
#define ENGINE_ASAN 0
#endif

namespace engine::kernels::simt {
namespace {

using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

// Kernels keep tiles in arrays: a few KiB. Under AddressSanitizer every variable is padded. Pages
// that no kernel touches are never backed by memory.
constexpr size_t kStackBytes = ENGINE_ASAN ? 512 * 1024 : 96 * 1024;
constexpr size_t kGuardBytes = 4096;

// Whoever is switched to stores where the other one stopped.
void arrived_from(transfer_t transfer) {
  static_cast<Fiber*>(transfer.data)->context = transfer.fctx;
}

void start_switch([[maybe_unused]] Fiber* from, [[maybe_unused]] const Fiber& to) {
#if ENGINE_ASAN
  __sanitizer_start_switch_fiber(from ? &from->sanitizer_state : nullptr, to.stack, to.stack_bytes);
#endif
}

void finish_switch([[maybe_unused]] Fiber* self, [[maybe_unused]] Fiber* other) {
#if ENGINE_ASAN
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(self ? self->sanitizer_state : nullptr, &bottom, &bytes);
  if (other && !other->stack) {  // the launching thread: its stack was not known
    other->stack = static_cast<std::byte*>(const_cast<void*>(bottom));
    other->stack_bytes = bytes;
  }
#endif
}

using Entry = void (*)();
thread_local Entry next_entry = nullptr;

void first_frame(transfer_t transfer) {
  arrived_from(transfer);
  finish_switch(nullptr, static_cast<Fiber*>(transfer.data));
  next_entry();
  std::abort();  // entry() must end with leave_fiber()
}

}  // namespace

FiberStacks::~FiberStacks() {
  if (memory_) munmap(memory_, static_cast<size_t>(count_) * (kStackBytes + kGuardBytes));
}

void FiberStacks::reserve(int count) {
  if (count <= count_) return;
  if (memory_) munmap(memory_, static_cast<size_t>(count_) * (kStackBytes + kGuardBytes));
  const size_t bytes = static_cast<size_t>(count) * (kStackBytes + kGuardBytes);
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    memory_ = nullptr;
    count_ = 0;
    throw std::bad_alloc();
  }
  memory_ = static_cast<std::byte*>(memory);
  count_ = count;
  for (int i = 0; i < count; ++i) {
    mprotect(memory_ + static_cast<size_t>(i) * (kStackBytes + kGuardBytes), kGuardBytes,
             PROT_NONE);
  }
}

void FiberStacks::prepare(Fiber& fiber, int index, void (*entry)()) {
  next_entry = entry;  // one entry per launch: the same for every fiber of this OS thread
  fiber.stack = memory_ + static_cast<size_t>(index) * (kStackBytes + kGuardBytes) + kGuardBytes;
  fiber.stack_bytes = kStackBytes;
#if ENGINE_ASAN
  // What the last fiber on this stack left behind is no longer poisoned memory.
  __asan_unpoison_memory_region(fiber.stack, kStackBytes);
#endif
  fiber.context = make_fcontext(fiber.stack + kStackBytes, kStackBytes, first_frame);
}

void switch_fiber(Fiber& from, Fiber& to) {
  start_switch(&from, to);
  const transfer_t back = jump_fcontext(to.context, &from);
  arrived_from(back);
  finish_switch(&from, static_cast<Fiber*>(back.data));
}

void leave_fiber(Fiber& from, Fiber& to) {
  start_switch(nullptr, to);
  jump_fcontext(to.context, &from);
  std::abort();
}

}  // namespace engine::kernels::simt
