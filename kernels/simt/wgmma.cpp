#include "kernels/simt/wgmma.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "kernels/simt/async.h"

namespace engine::kernels::simt {
namespace {

// A signalling NaN: arithmetic with it gives other bits, so a register that was changed shows.
constexpr uint32_t kPoison = 0xffbfffffu;

struct WgmmaLane {
  float* d;
  const uint32_t* a_place;
  uint64_t a, b;
  uint32_t a_registers[4];
  bool accumulate;
};
static_assert(sizeof(WgmmaLane) <= kSlotBytes);

MatrixUnit& unit_of(Warp& warp) {
  if (!warp.matrix_unit) warp.matrix_unit = std::make_shared<MatrixUnit>();
  return *warp.matrix_unit;
}

int warp_in_group(const Warp& warp) {
  return warp.first_thread / kWarpSize % 4;
}

float bf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// --- Operands in shared memory -----------------------------------------------------------------

struct Descriptor {
  uint32_t start, leading, stride;  // bytes

  explicit Descriptor(uint64_t bits)
      : start(static_cast<uint32_t>(bits & 0x3fff) << 4),
        leading(static_cast<uint32_t>(bits >> 16 & 0x3fff) << 4),
        stride(static_cast<uint32_t>(bits >> 32 & 0x3fff) << 4) {
    if (bits >> 62 != 1) fault("wgmma: the descriptor is not of a tile with 128-byte swizzle");
    if (bits >> 49 & 7) fault("wgmma: the descriptor has a base offset");
  }
  // Byte offset of the 8 elements from (mn, k) on: along k, or along mn when MN-major.
  uint32_t chunk(int mn, int k, bool mn_major) const {
    const auto m = static_cast<uint32_t>(mn), kk = static_cast<uint32_t>(k);
    const uint32_t linear =
        mn_major ? start + m / 64 * leading + m % 64 * 2 + kk / 8 * stride + kk % 8 * 128
                 : start + m / 8 * stride + m % 8 * 128 + kk * 2;
    return swizzle_128(linear);
  }
};

// Calls visit(mn, k, offset) for all 8-element chunks of rows [first, first + count).
template <typename Visit>
void for_each_chunk(const Descriptor& tile, int first, int count, bool mn_major, Visit visit) {
  if (mn_major) {
    for (int k = 0; k < 16; ++k) {
      for (int mn = first; mn < first + count; mn += 8) visit(mn, k, tile.chunk(mn, k, true));
    }
  } else {
    for (int mn = first; mn < first + count; ++mn) {
      for (int k = 0; k < 16; k += 8) visit(mn, k, tile.chunk(mn, k, false));
    }
  }
}

void check_operand(const Block& block, uint64_t bits, int first, int count, bool mn_major) {
  for_each_chunk(Descriptor(bits), first, count, mn_major, [&](int, int, uint32_t offset) {
    if (offset + 16 > block.shared_bytes) {
      fault("wgmma: an operand lies at shared memory offset %u of %zu bytes", offset,
            block.shared_bytes);
    }
    check_fenced(block, offset, 16, "wgmma reads");
  });
}

// Elements (mn, k) to values[k][mn - first].
template <int Columns>
void read_operand(const Block& block, uint64_t bits, int first, int count, bool mn_major,
                  float (*values)[Columns]) {
  for_each_chunk(Descriptor(bits), first, count, mn_major, [&](int mn, int k, uint32_t offset) {
    uint16_t chunk[8];
    std::memcpy(chunk, block.shared + offset, sizeof chunk);
    for (int e = 0; e < 8; ++e) {
      if (mn_major) {
        values[k][mn - first + e] = bf16(chunk[e]);
      } else {
        values[k + e][mn - first] = bf16(chunk[e]);
      }
    }
  });
}

// --- Execution ---------------------------------------------------------------------------------

// Products and sums in fp32, k ascending; the hardware sums in an order of its own.
void multiply(float* d, int n, const float (&a)[16][16], const float (&b)[16][256]) {
  for (int i = 0; i < 16; ++i) {
    float* const __restrict row = d + static_cast<ptrdiff_t>(i) * n;
    for (int j = 0; j < n; ++j) {
      float sum = row[j];
      for (int k = 0; k < 16; ++k) sum += a[k][i] * b[k][j];
      row[j] = sum;
    }
  }
}

void execute(const Block& block, const Warp& warp, const MatrixUnit::Operation& operation) {
  float a[16][16];  // [k][row]
  float b[16][256];
  if (operation.a_in_registers) {
    for (int lane = 0; lane < kWarpSize; ++lane) {
      if (std::memcmp(operation.a_places[lane], operation.a_registers[lane].data(), 16) != 0) {
        fault("a register of A of lane %d was written while a wgmma that reads it was under way",
              lane);
      }
      const int g = lane / 4, t = lane % 4;
      for (int r = 0; r < 4; ++r) {
        const uint32_t packed = operation.a_registers[lane][r];
        const int row = g + 8 * (r & 1), k = 2 * t + 8 * (r >> 1);
        a[k][row] = bf16(static_cast<uint16_t>(packed));
        a[k + 1][row] = bf16(static_cast<uint16_t>(packed >> 16));
      }
    }
  } else {
    read_operand(block, operation.a, 16 * warp_in_group(warp), 16, operation.shape.transpose_a, a);
  }
  read_operand(block, operation.b, 0, operation.shape.n, operation.shape.transpose_b, b);
  MatrixUnit::Accumulators& d = *operation.d;
  if (!operation.accumulate) std::fill(d.values.begin(), d.values.end(), 0.0f);
  multiply(d.values.data(), d.n, a, b);
  count_tensor_flops(2 * 16 * 16 * d.n);
  --d.pending;
}

// Calls visit(register, value in [16][n]) for every element of D.
template <typename Visit>
void for_each_accumulator(MatrixUnit::Accumulators& d, Visit visit) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < d.n / 2; ++i) {
      const int row = g + 8 * (i >> 1 & 1), column = i / 4 * 8 + 2 * t + (i & 1);
      visit(d.registers[lane][i], d.values[static_cast<size_t>(row) * d.n + column], lane, i);
    }
  }
}

void give_back(MatrixUnit& unit) {
  std::erase_if(unit.owned, [](const std::shared_ptr<MatrixUnit::Accumulators>& d) {
    if (d->pending != 0) return false;
    for_each_accumulator(*d, [](float& in_register, float value, int lane, int index) {
      if (std::bit_cast<uint32_t>(in_register) != kPoison) {
        fault("accumulator %d of lane %d was written while a wgmma that owns it was under way",
              index, lane);
      }
      in_register = value;
    });
    return true;
  });
}

void execute_groups(Warp& warp, size_t left) {
  MatrixUnit& unit = *warp.matrix_unit;
  while (unit.groups.size() > left) {
    for (const MatrixUnit::Operation& operation : unit.groups.front()) {
      execute(*warp.block, warp, operation);
    }
    unit.groups.pop_front();
  }
}

// The four warps of a warpgroup issue the same operations in the same order.
void compare_with_group(Warp& warp, const WgmmaLane& lane, const WgmmaShape& shape,
                        bool registers) {
  MatrixUnit& unit = *warp.matrix_unit;
  uint64_t hash = registers ? 1 : lane.a;
  for (const uint64_t part : {lane.b, static_cast<uint64_t>(shape.n),
                              static_cast<uint64_t>(shape.transpose_a) << 2 |
                                  static_cast<uint64_t>(shape.transpose_b) << 1 |
                                  static_cast<uint64_t>(lane.accumulate)}) {
    hash = (hash ^ part) * 0x9E3779B97F4A7C15ULL;
    hash ^= hash >> 29;
  }
  const size_t position = unit.issued.size();
  unit.issued.push_back(hash);
  const int first = warp.first_thread / kWarpSize / 4 * 4;
  for (int w = first; w < first + 4; ++w) {
    const auto& other = warp.block->warps[w].matrix_unit;
    if (other && other->issued.size() > position && other->issued[position] != hash) {
      fault("wgmma number %zu of this warp differs from that of warp %d of its warpgroup", position,
            w);
    }
  }
}

}  // namespace

void issue_wgmma(float* d, const uint32_t* a_registers, uint64_t a, uint64_t b, bool accumulate,
                 const WgmmaShape& shape) {
  Thread& thread = self();
  if (thread.linear / 128 * 128 + 128 > thread.block->num_threads) {
    fault("wgmma in a warpgroup of fewer than four warps");
  }
  WgmmaLane mine{d, a_registers, a, b, {}, accumulate};
  if (a_registers) std::memcpy(mine.a_registers, a_registers, sizeof mine.a_registers);
  std::memcpy(thread.warp->slots[thread.warp->parity][thread.lane], &mine, sizeof mine);
  const bool registers = a_registers != nullptr;
  gather_warp("wgmma", [&](Warp& warp) {
    MatrixUnit& unit = unit_of(warp);
    WgmmaLane lanes[kWarpSize];
    for (int lane = 0; lane < kWarpSize; ++lane) {
      std::memcpy(&lanes[lane], warp.slots[warp.parity][lane], sizeof lanes[lane]);
      if (lanes[lane].a != lanes[0].a || lanes[lane].b != lanes[0].b ||
          lanes[lane].accumulate != lanes[0].accumulate) {
        fault("wgmma: lanes 0 and %d give different descriptors or flags", lane);
      }
    }
    compare_with_group(warp, lanes[0], shape, registers);
    if (!registers) {
      check_operand(*warp.block, a, 16 * warp_in_group(warp), 16, shape.transpose_a);
    }
    check_operand(*warp.block, b, 0, shape.n, shape.transpose_b);

    MatrixUnit::Operation operation;
    for (const auto& owned : unit.owned) {
      if (owned->registers[0] == lanes[0].d) operation.d = owned;
    }
    if (operation.d && operation.d->n != shape.n) {
      fault("wgmma: accumulators of n = %d are still in use by one of n = %d", shape.n,
            operation.d->n);
    }
    if (!operation.d) {
      if (!unit.fenced) {
        fault(
            "wgmma: no wgmma.fence since this warp last waited: accumulators and A registers may "
            "not be ready");
      }
      operation.d = std::make_shared<MatrixUnit::Accumulators>();
      operation.d->n = shape.n;
      operation.d->values.resize(16 * static_cast<size_t>(shape.n));
      for (int lane = 0; lane < kWarpSize; ++lane) operation.d->registers[lane] = lanes[lane].d;
      for_each_accumulator(*operation.d, [](float& in_register, float& value, int, int) {
        value = in_register;
        in_register = std::bit_cast<float>(kPoison);
      });
      unit.owned.push_back(operation.d);
    }
    ++operation.d->pending;
    operation.a = a;
    operation.b = b;
    operation.shape = shape;
    operation.accumulate = accumulate;
    operation.a_in_registers = registers;
    for (int lane = 0; registers && lane < kWarpSize; ++lane) {
      std::copy_n(lanes[lane].a_registers, 4, operation.a_registers[lane].begin());
      operation.a_places[lane] = lanes[lane].a_place;
    }
    unit.open.push_back(std::move(operation));
  });
}

void fence_wgmma() {
  gather_warp("wgmma.fence", [](Warp& warp) { unit_of(warp).fenced = true; });
}

void commit_wgmma() {
  gather_warp("wgmma.commit_group", [](Warp& warp) {
    MatrixUnit& unit = unit_of(warp);
    unit.groups.push_back(std::move(unit.open));
    unit.open.clear();
    Cluster& cluster = *warp.block->cluster;
    const Completion completion = cluster.schedule.completion;
    if (completion == Completion::eager ||
        (completion == Completion::random && (cluster.random() & 1))) {
      const size_t groups = unit.groups.size();
      execute_groups(warp, 0);
      give_back(unit);
      unit.groups.resize(groups);  // empty ones: waits still count them
    }
  });
}

void wait_wgmma(int groups) {
  gather_warp("wgmma.wait_group", [&](Warp& warp) {
    MatrixUnit& unit = unit_of(warp);
    if (!unit.open.empty() && groups == 0) {
      fault("wgmma.wait_group while %zu operations are not committed", unit.open.size());
    }
    execute_groups(warp, static_cast<size_t>(groups));
    give_back(unit);
    unit.fenced = false;
  });
}

void check_matrix_unit_idle(const MatrixUnit& unit) {
  const bool busy = std::any_of(unit.groups.begin(), unit.groups.end(),
                                [](const auto& group) { return !group.empty(); });
  if (busy || !unit.open.empty()) fault("the thread returned while a wgmma was under way");
}

void check_warpgroups(const Block& block) {
  for (size_t w = 0; w < block.warps.size(); ++w) {
    const auto& unit = block.warps[w].matrix_unit;
    const auto& first = block.warps[w / 4 * 4].matrix_unit;
    const size_t here = unit ? unit->issued.size() : 0, there = first ? first->issued.size() : 0;
    if (here != there) {
      fault("warp %zu issued %zu wgmma and warp %zu of its warpgroup %zu", w, here, w / 4 * 4,
            there);
    }
  }
}

}  // namespace engine::kernels::simt
