// cp.async: groups, sizes, zero fill.
#include "kernels/cuda/device/cp_async.h"

#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/warp.h"
#include "tests/kernels/hardware/arrays.h"
#include "tests/kernels/hardware/assumption.h"

namespace engine::kernels::ENGINE_GPU::hardware {
namespace {

using namespace testing;

// Three groups in flight; the last 16 bytes of each are not valid.
__global__ void groups_kernel(const float* x, float* out) {
  SharedMemory shared;
  const auto tile = shared.take<float>(3 * 128);
  const int lane = lane_index();
  for (int group = 0; group < 3; ++group) {
    copy_async_16(tile + group * 128 + lane * 4, x + group * 128 + lane * 4, lane < 31);
    copy_async_commit_group();
  }
  copy_async_wait_group<1>();
  sync_warp();
  for (int i = lane; i < 256; i += kWarp) store(out + i, load(tile + i));
  copy_async_wait_group<0>();
  sync_warp();
  for (int i = 256 + lane; i < 384; i += kWarp) store(out + i, load(tile + i));
}

void groups(Report& report) {
  const auto x = counted(384);
  const OnDevice<float> device(x), out(384);
  launch({}, "groups", groups_kernel, {.grid = {1}, .block = {32}, .shared_bytes = 384 * 4},
         static_cast<const float*>(device.data()), out.data());
  report.compare("copied", out.values(), [&](size_t i) { return i % 128 < 124 ? x[i] : 0.0f; });
}

// 16 bytes of which lane % 5 floats are read, then 4 bytes that odd lanes do not read.
__global__ void sizes_kernel(const float* x, float* out) {
  SharedMemory shared;
  const auto tile = shared.take<float>(128), words = shared.take<float>(32);
  const int lane = lane_index();
  copy_async_16_partial(tile + lane * 4, x + lane * 4, lane % 5 * 4);
  copy_async_4(words + lane, x + lane + 1, lane % 2 == 0);
  copy_async_commit_group();
  copy_async_commit_group();  // a group without copies is complete
  copy_async_wait_group<0>();
  sync_warp();
  for (int i = lane; i < 128; i += kWarp) store(out + i, load(tile + i));
  store(out + 128 + lane, load(words + lane));
}

void sizes(Report& report) {
  const auto x = counted(128);
  const OnDevice<float> device(x), out(160);
  launch({}, "sizes", sizes_kernel, {.grid = {1}, .block = {32}, .shared_bytes = 640},
         static_cast<const float*>(device.data()), out.data());
  report.compare("copied", out.values(), [&](size_t i) {
    if (i >= 128) return i % 2 == 0 ? x[i - 127] : 0.0f;
    return i % 4 < i / 4 % 5 ? x[i] : 0.0f;
  });
}

}  // namespace

Assumptions cp_async_assumptions() {
  static const Assumption all[] = {
      {"cp_async_groups", "groups arrive in order; zeros where a copy is not valid", 80, groups},
      {"cp_async_sizes", "16 bytes read in part and 4 bytes; the rest is zero", 80, sizes},
  };
  return all;
}

}  // namespace engine::kernels::ENGINE_GPU::hardware
