// Starting a kernel on the software GPU, and choosing how adversely it behaves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>

namespace engine::kernels::simt {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// When asynchronous work (cp.async, TMA, bulk stores, wgmma) takes effect. Hardware promises only
// that it is done when a wait for it returns. A kernel that is right gives the same bits under all.
enum class Completion : uint8_t {
  eager,   // at once: what a kernel with a forgotten wait happens to survive
  lazy,    // as late as its wait allows: a forgotten wait reads NaN
  random,  // at some moment between, by the seed
  // Every launch runs under several of these, each time from the same memory; a byte that differs
  // is a fault that names the kernel, block and thread that wrote it (compare.h).
  compare,
};

struct Schedule {
  Completion completion = Completion::lazy;
  // 0: threads, warps and blocks run in order. Otherwise in an order drawn from the seed.
  uint64_t seed = 0;
};

// "eager", "lazy", "random:SEED", "compare"; throws std::invalid_argument for anything else.
Schedule parse_schedule(const std::string& text);
std::string to_string(const Schedule& schedule);

// The schedule of launches from here on, of every thread. Starts as the environment variable
// ENGINE_SIMT_SCHEDULE says, else lazy and in order.
void set_schedule(const Schedule& schedule);
Schedule current_schedule();

// The compute capability that operations choose their kernels by: 90, or what the environment
// variable ENGINE_SIMT_CAPABILITY says. All kernels run whatever it is.
void set_claimed_capability(int capability);
int claimed_capability();

// A kernel did what a GPU forbids: an access out of bounds, a barrier that not all threads reach,
// a deadlock. The message names kernel, block and thread. Memory holds what was written so far.
class KernelFault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct LaunchShape {
  Dim3 grid;
  Dim3 block;               // threads, a multiple of 32
  unsigned cluster = 1;     // blocks per cluster, along x; divides grid.x
  size_t shared_bytes = 0;  // dynamic shared memory per block
};

// Runs `body` once in every thread of the grid; returns when all have finished. Throws KernelFault.
void launch(const char* kernel, const LaunchShape& shape, const std::function<void()>& body);

}  // namespace engine::kernels::simt
