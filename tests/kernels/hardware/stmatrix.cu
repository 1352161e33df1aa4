// stmatrix (sm_90), the inverse of ldmatrix.
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/mma.h"
#include "kernels/cuda/device/warp.h"
#include "tests/kernels/hardware/arrays.h"
#include "tests/kernels/hardware/assumption.h"

namespace engine::kernels::ENGINE_GPU::hardware {
namespace {

using namespace testing;

// Registers that say lane, matrix and half, written as they are and transposed.
__global__ void stmatrix_kernel(float* out) {
  SharedMemory shared;
  const auto tile = shared.take<BFloat16>(256);
  const int lane = lane_index();
  uint32_t r[4];
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    const auto first = static_cast<float>(64 * q + 2 * lane);
    r[q] = pack_bf16(first, first + 1.0f);
  }
  store_matrix_x4(tile + lane * 8, r);
  sync_warp();
  for (int i = lane; i < 256; i += kWarp) store(out + i, to_float(load(tile + i)));
  sync_warp();
  store_matrix_x4<true>(tile + lane * 8, r);
  sync_warp();
  for (int i = lane; i < 256; i += kWarp) store(out + 256 + i, to_float(load(tile + i)));
}

void stmatrix(Report& report) {
  const OnDevice<float> out(512);
  launch({}, "stmatrix", stmatrix_kernel, {.grid = {1}, .block = {32}, .shared_bytes = 512},
         out.data());
  report.compare("x4 and x4.trans", out.values(), [](size_t i) {
    // element (row, column) of matrix q belongs to lane 4 row + column / 2
    const size_t q = i / 64 % 4, row = i / 8 % 8, column = i % 8;
    return static_cast<float>(64 * q + (i < 256 ? 8 * row + column : 8 * column + row));
  });
}

}  // namespace

Assumptions stmatrix_assumptions() {
  static const Assumption all[] = {
      {"stmatrix", "stmatrix x4, plain and .trans: where each lane's elements go", 90, stmatrix},
  };
  return all;
}

}  // namespace engine::kernels::ENGINE_GPU::hardware
