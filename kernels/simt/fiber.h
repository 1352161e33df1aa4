// A stack of its own for every GPU thread, and switching between them: a few nanoseconds, no system
// call. Boost.Context does the switch; this adds guard pages and what AddressSanitizer must know.
#pragma once

#include <boost/context/detail/fcontext.hpp>
#include <cstddef>

namespace engine::kernels::simt {

// A thread of execution that is not running now. Never copied: others hold its address.
struct Fiber {
  boost::context::detail::fcontext_t context = nullptr;
  std::byte* stack = nullptr;  // lowest address; null for the fiber that called launch()
  size_t stack_bytes = 0;
  void* sanitizer_state = nullptr;
};

// Memory for the stacks of `count` fibers, each with a page below it that traps an overflow.
class FiberStacks {
 public:
  FiberStacks() = default;
  ~FiberStacks();
  FiberStacks(const FiberStacks&) = delete;
  FiberStacks& operator=(const FiberStacks&) = delete;

  void reserve(int count);
  // Makes `fiber` start in entry(argument) when it is switched to first. entry never returns.
  void prepare(Fiber& fiber, int index, void (*entry)());

 private:
  std::byte* memory_ = nullptr;
  int count_ = 0;
};

// Goes on with `to`; returns when someone switches back to `from`.
void switch_fiber(Fiber& from, Fiber& to);
// As above for the last time: `from` never runs again.
[[noreturn]] void leave_fiber(Fiber& from, Fiber& to);

}  // namespace engine::kernels::simt
