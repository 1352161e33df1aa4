// Functional model of wgmma: the asynchronous matrix unit of Hopper's warpgroups. Layouts and
// descriptors are described in kernels/cuda/device/wgmma.h.
//
// Each warp has its own queue: it computes the 16 rows of its lanes, and no warp waits for the
// other three of its group (hardware promises no such thing either), but all four must issue the
// same.
//
// From issue to wait the accumulators belong to the unit. The model keeps their values aside and
// leaves NaN in the registers: reading them early spreads NaN, writing them is a fault; so is
// writing registers of A, which must exist until the wait. Operands in shared memory are read when
// the group is executed: at once (eager), at the wait that covers it (lazy), or at either (random).
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "kernels/simt/machine.h"

namespace engine::kernels::simt {

struct WgmmaShape {
  int n = 0;
  bool transpose_a = false, transpose_b = false;  // MN-major in shared memory
};

// D[64, n] = A · B + (accumulate ? D : 0). `a_registers`: this lane's four registers of A, or null
// for A in shared memory at descriptor a.
void issue_wgmma(float* d, const uint32_t* a_registers, uint64_t a, uint64_t b, bool accumulate,
                 const WgmmaShape& shape);
void fence_wgmma();
void commit_wgmma();
void wait_wgmma(int groups);

// What one warp has under way.
struct MatrixUnit {
  // Registers of D of all lanes, and their values while the unit owns them.
  struct Accumulators {
    std::array<float*, kWarpSize> registers{};
    int n = 0;
    int pending = 0;            // operations not executed
    std::vector<float> values;  // [16][n]
  };
  struct Operation {
    std::shared_ptr<Accumulators> d;
    bool a_in_registers = false, accumulate = false;
    uint64_t a = 0, b = 0;
    WgmmaShape shape;
    std::array<std::array<uint32_t, 4>, kWarpSize> a_registers{};  // when it was issued
    std::array<const uint32_t*, kWarpSize> a_places{};             // where they are
  };
  std::vector<Operation> open;  // not committed
  std::deque<std::vector<Operation>> groups;
  std::vector<std::shared_ptr<Accumulators>> owned;
  bool fenced = false;  // wgmma.fence since registers were last given back
  // For comparing with the other warps: what was issued, in order.
  std::vector<uint64_t> issued;
};

// A thread may not return while its warp has operations under way.
void check_matrix_unit_idle(const MatrixUnit& unit);
// After the last thread: the warps of each warpgroup have issued as many operations.
void check_warpgroups(const Block& block);

}  // namespace engine::kernels::simt
