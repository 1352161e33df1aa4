// Results that depend on the schedule. A race between threads, or a result that was read too early,
// may look right under one order of events; it looks different under another.
#pragma once

#include <functional>

#include "kernels/simt/launch.h"

namespace engine::kernels::simt {

// Calls run(schedule) for several schedules, each time with device memory as it was before the
// first, and compares device memory afterwards. Throws a KernelFault for a byte that differs: its
// place, the values, and the thread that wrote it last.
void run_and_compare(const char* kernel, const std::function<void(const Schedule&)>& run);

}  // namespace engine::kernels::simt
