// Clusters, and what belongs to warpgroups: setmaxnreg and elect.
#include "kernels/cuda/device/cluster.h"

#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/warp.h"
#include "tests/kernels/hardware/arrays.h"
#include "tests/kernels/hardware/assumption.h"

namespace engine::kernels::ENGINE_GPU::hardware {
namespace {

using namespace testing;

// Each block reads its neighbour's memory between two barriers of the cluster, and writes into that
// of the one after.
__global__ void neighbours_kernel(float* out) {
  SharedMemory shared;
  const auto value = shared.take<float>(32), gift = shared.take<float>(32);
  const int rank = cluster_rank(), size = cluster_size();
  store(value + lane_index(), static_cast<float>(100 * blockIdx.x + lane_index()));
  arrive_cluster_barrier();
  wait_cluster_barrier();
  float* const to = out + static_cast<int>(blockIdx.x) * 96;
  store(to + lane_index(), load(at_rank(value, (rank + 1) % size) + lane_index()));
  store(at_rank(gift, (rank + 2) % size) + lane_index(), static_cast<float>(1000 + rank));
  sync_cluster();
  store(to + 32 + lane_index(), load(gift + lane_index()));
  store(to + 64 + lane_index(), static_cast<float>(10 * size + rank));
}

void neighbours(Report& report) {
  for (const unsigned size : {2u, 4u, 8u}) {
    const OnDevice<float> out(16 * 96);
    launch({}, "neighbours", neighbours_kernel,
           {.grid = {16}, .block = {32}, .cluster = size, .shared_bytes = 256}, out.data());
    report.compare(("clusters of " + std::to_string(size)).c_str(), out.values(), [&](size_t i) {
      const size_t block = i / 96, rank = block % size, lane = i % 32;
      if (i % 96 >= 64) return static_cast<float>(10 * size + rank);
      if (i % 96 >= 32) return static_cast<float>(1000 + (rank + size - 2) % size);
      return static_cast<float>(100 * (block / size * size + (rank + 1) % size) + lane);
    });
  }
}

// The same lane every time, and one only; what it leaves can be seen by its warp.
__global__ void elect_kernel(int32_t* out) {
  const uint32_t first = ballot(elect_lane()), second = ballot(elect_lane());
  if (lane_index() == 0) {
    store(out + warp_index() * 2, count_bits(first));
    store(out + warp_index() * 2 + 1, static_cast<int32_t>(first == second));
  }
}

void election(Report& report) {
  const OnDevice<int32_t> out(8);
  launch({}, "elect", elect_kernel, {.grid = {1}, .block = {128}}, out.data());
  report.compare("elected lanes, and again the same", out.values(), [](size_t) { return 1; });
}

// One warpgroup gives registers up, the other takes them and uses them.
__global__ void __launch_bounds__(256, 1) registers_kernel(const float* x, float* out) {
  if (threadIdx.x < 128) {
    give_up_registers<40>();
    store(out + static_cast<int>(threadIdx.x), load(x + static_cast<int>(threadIdx.x)));
  } else {
    take_registers<232>();
    float values[64];
    const int thread = static_cast<int>(threadIdx.x) - 128;
#pragma unroll
    for (int i = 0; i < 64; ++i) values[i] = load(x + thread + i);
    float sum = 0;
    for (int turn = 0; turn < 3; ++turn) {
#pragma unroll
      for (int i = 0; i < 64; ++i) values[i] += static_cast<float>(turn);
    }
#pragma unroll
    for (int i = 0; i < 64; ++i) sum += values[i];
    store(out + static_cast<int>(threadIdx.x), sum);
  }
}

void registers(Report& report) {
  const auto x = small_integers(192, 21);
  const OnDevice<float> device(x), out(256);
  launch({}, "registers", registers_kernel, {.grid = {2}, .block = {256}},
         static_cast<const float*>(device.data()), out.data());
  report.compare("computed", out.values(), [&](size_t i) {
    if (i < 128) return x[i];
    const auto first = x.begin() + static_cast<ptrdiff_t>(i - 128);
    return std::accumulate(first, first + 64, 0.0f) + 64 * 3;
  });
}

}  // namespace

Assumptions cluster_assumptions() {
  static const Assumption all[] = {
      {"cluster_memory", "ranks, mapa, and barriers that order shared memory of other blocks", 90,
       neighbours},
      {"elect", "elect.sync: one lane, always the same", 90, election},
      {"setmaxnreg", "registers change hands between warpgroups and keep their values", 90,
       registers},
  };
  return all;
}

}  // namespace engine::kernels::ENGINE_GPU::hardware
