// Shuffles, votes, barriers, atomics, and where shared memory lies.
#include "kernels/cuda/device/warp.h"

#include <algorithm>

#include "kernels/cuda/device/launch.h"
#include "tests/kernels/hardware/arrays.h"
#include "tests/kernels/hardware/assumption.h"

namespace engine::kernels::ENGINE_GPU::hardware {
namespace {

using namespace testing;

// --- Shuffles and votes ------------------------------------------------------------------------

__global__ void shuffle_kernel(const float* x, float* out) {
  const int lane = lane_index();
  const float value = load(x + lane);
  store(out + lane, shuffle(value, (lane * 5 + 3) % kWarp));
  store(out + 32 + lane, shuffle_xor(value, 9));
  store(out + 64 + lane, shuffle_up(value, 3));
  store(out + 96 + lane, shuffle(value, lane + 33));  // lanes are counted modulo 32
}

void shuffles(Report& report) {
  const auto x = counted(32);
  const OnDevice<float> device(x), out(128);
  launch({}, "shuffle", shuffle_kernel, {.grid = {1}, .block = {32}},
         static_cast<const float*>(device.data()), out.data());
  report.compare("shuffled", out.values(), [&](size_t i) {
    const size_t lane = i % 32;
    switch (i / 32) {
      case 0:
        return x[(lane * 5 + 3) % 32];
      case 1:
        return x[lane ^ 9];
      case 2:
        return x[lane < 3 ? lane : lane - 3];
      default:
        return x[(lane + 1) % 32];
    }
  });
}

__global__ void vote_kernel(const float* x, int32_t* out) {
  const int lane = lane_index();
  const float value = load(x + lane);
  const uint32_t positive = ballot(value > 0);
  store(out + lane, static_cast<int32_t>(positive & 0xffff));
  store(out + 32 + lane, static_cast<int32_t>(positive >> 16));
  store(out + 64 + lane, count_bits(positive));
}

void votes(Report& report) {
  const auto x = small_integers(32, 7);
  const OnDevice<float> device(x);
  const OnDevice<int32_t> out(96);
  launch({}, "vote", vote_kernel, {.grid = {1}, .block = {32}},
         static_cast<const float*>(device.data()), out.data());
  uint32_t positive = 0;
  int count = 0;
  for (int lane = 0; lane < 32; ++lane) {
    positive |= static_cast<uint32_t>(x[lane] > 0) << lane;
    count += x[lane] > 0;
  }
  report.compare("votes", out.values(), [&](size_t i) {
    const uint32_t expected[] = {positive & 0xffff, positive >> 16, static_cast<uint32_t>(count)};
    return static_cast<int32_t>(expected[i / 32]);
  });
}

__global__ void reduction_kernel(const float* x, float* out) {
  const int lane = lane_index();
  const float value = load(x + lane);
  store(out + lane, warp_sum(value));
  store(out + 32 + lane, warp_sum<8>(value));
  store(out + 64 + lane, warp_max(value));
}

void reductions(Report& report) {
  const auto x = small_integers(32, 8);
  const OnDevice<float> device(x), out(96);
  launch({}, "reduction", reduction_kernel, {.grid = {1}, .block = {32}},
         static_cast<const float*>(device.data()), out.data());
  report.compare("reduced", out.values(), [&](size_t i) {
    if (i >= 64) return *std::max_element(x.begin(), x.end());
    const size_t width = i < 32 ? 32 : 8, first = i % 32 / width * width;
    return std::accumulate(x.begin() + first, x.begin() + first + width, 0.0f);
  });
}

// --- Barriers ----------------------------------------------------------------------------------

__global__ void block_kernel(const float* x, float* out) {
  SharedMemory shared;
  const auto values = shared.take<float>(128), scratch = shared.take<float>(4);
  const int thread = static_cast<int>(threadIdx.x);
  const float value = load(x + static_cast<int>(blockIdx.x) * 128 + thread);
  store(values + thread, value);
  sync_threads();
  float* const to = out + static_cast<int>(blockIdx.x) * 384;
  store(to + thread, load(values + (127 - thread)));
  store(to + 128 + thread, block_sum(value, scratch));
  store(to + 256 + thread, block_max(value, scratch));
}

void block_barriers(Report& report) {
  const auto x = small_integers(5 * 128, 8);
  const OnDevice<float> device(x), out(5 * 384);
  launch({}, "block", block_kernel, {.grid = {5}, .block = {128}, .shared_bytes = 132 * 4},
         static_cast<const float*>(device.data()), out.data());
  report.compare("of a block", out.values(), [&](size_t i) {
    const auto first = x.begin() + static_cast<ptrdiff_t>(i / 384 * 128), last = first + 128;
    if (i % 384 < 128) return first[127 - static_cast<ptrdiff_t>(i % 384)];
    return i % 384 < 256 ? std::accumulate(first, last, 0.0f) : *std::max_element(first, last);
  });
}

// Warp 0 produces for warp 1; each arrives at one barrier and waits at the other.
__global__ void named_kernel(float* out) {
  SharedMemory shared;
  const auto value = shared.take<float>(32);
  for (int i = 0; i < 3; ++i) {
    if (warp_index() == 0) {
      if (i > 0) sync_named_barrier(2, 64);
      store(value + lane_index(), static_cast<float>(10 * i + lane_index()));
      arrive_named_barrier(1, 64);
    } else {
      sync_named_barrier(1, 64);
      store(out + i * 32 + lane_index(), load(value + (31 - lane_index())));
      if (i < 2) arrive_named_barrier(2, 64);
    }
  }
}

void named_barriers(Report& report) {
  const OnDevice<float> out(96);
  launch({}, "named", named_kernel, {.grid = {1}, .block = {64}, .shared_bytes = 128}, out.data());
  report.compare("handed over", out.values(),
                 [](size_t i) { return static_cast<float>(10 * (i / 32) + 31 - i % 32); });
}

// --- Memory ------------------------------------------------------------------------------------

// Descriptors, swizzles and TMA want multiples of 1024 of the real address.
__global__ void address_kernel(int32_t* out) {
  SharedMemory shared;
  const auto first = shared.take<float>(3);
  const auto second = shared.take<float>(1, 1024);
  store(out, static_cast<int32_t>(shared_address(first) % 1024));
  store(out + 1, static_cast<int32_t>(shared_address(second) % 1024));
  store(out + 2, static_cast<int32_t>(shared_address(second) - shared_address(first)));
}

void shared_addresses(Report& report) {
  const OnDevice<int32_t> out(3);
  launch({}, "address", address_kernel, {.grid = {1}, .block = {32}, .shared_bytes = 1028},
         out.data());
  report.compare("addresses", out.values(), [](size_t i) { return i == 2 ? 1024 : 0; });
}

// Vectors of every width, through device memory and shared memory.
__global__ void vector_kernel(const float* x, float* out) {
  SharedMemory shared;
  const auto tile = shared.take<float>(128);
  const int lane = lane_index();
  store_vector(tile + lane * 4, load_vector<4>(x + lane * 4));
  sync_warp();
  store_streaming(out + lane * 4, load_vector<4>(tile + (31 - lane) * 4));
  store_vector(out + 128 + lane * 2, load_once<2>(x + lane * 2));
  store_vector(out + 192 + lane * 4, load_once<4>(x + lane * 4));
}

void vectors(Report& report) {
  const auto x = counted(128);
  const OnDevice<float> device(x), out(320);
  launch({}, "vector", vector_kernel, {.grid = {1}, .block = {32}, .shared_bytes = 512},
         static_cast<const float*>(device.data()), out.data());
  report.compare("copied", out.values(), [&](size_t i) {
    if (i < 128) return x[(31 - i / 4) * 4 + i % 4];
    return i < 192 ? x[i - 128] : x[i - 192];
  });
}

__global__ void atomic_kernel(int32_t* sum, int64_t* minimum, int32_t* of_shared) {
  SharedMemory shared;
  const auto count = shared.take<int32_t>(1);
  if (threadIdx.x == 0) store(count, 0);
  sync_threads();
  atomic_add(count, static_cast<int32_t>(threadIdx.x));
  atomic_add(sum, static_cast<int32_t>(threadIdx.x));
  atomic_min(minimum, -(int64_t{1} << 40) + static_cast<int64_t>(threadIdx.x));
  sync_threads();
  if (threadIdx.x == 0) store(of_shared + static_cast<int>(blockIdx.x), load(count));
}

void atomics(Report& report) {
  const OnDevice<int32_t> sum(std::vector<int32_t>{7}), of_shared(3);
  const OnDevice<int64_t> minimum(std::vector<int64_t>{0});
  launch({}, "atomic", atomic_kernel, {.grid = {3}, .block = {64}, .shared_bytes = 4}, sum.data(),
         minimum.data(), of_shared.data());
  report.compare("sum", sum.values(), [](size_t) { return 7 + 3 * 2016; });
  report.compare("sum in shared memory", of_shared.values(), [](size_t) { return 2016; });
  report.compare("minimum", minimum.values(), [](size_t) { return -(int64_t{1} << 40); });
}

}  // namespace

Assumptions warp_assumptions() {
  static const Assumption all[] = {
      {"shuffle", "shfl.sync idx, xor and up: which lane's value arrives where", 80, shuffles},
      {"ballot", "vote.ballot: bit l is lane l", 80, votes},
      {"warp_reductions", "butterflies over 32 and 8 lanes", 80, reductions},
      {"block_barrier", "bar.sync 0 orders shared memory; sums and maxima of a block", 80,
       block_barriers},
      {"named_barrier", "bar.arrive and bar.sync of 64 threads hand memory over", 80,
       named_barriers},
      {"shared_address", "dynamic shared memory starts at a multiple of 1024", 80,
       shared_addresses},
      {"vector_access", "4, 8 and 16 byte loads and stores, read-only and streaming", 80, vectors},
      {"atomics", "integer atomics in device and shared memory", 80, atomics},
  };
  return all;
}

}  // namespace engine::kernels::ENGINE_GPU::hardware
