#include "kernels/simt/matrix.h"

#include <bit>
#include <cstring>

#include "kernels/simt/machine.h"

namespace engine::kernels::simt {
namespace {

struct MatrixLane {
  uint32_t* registers;
  std::byte* row;
};

float low(uint32_t packed) {
  return std::bit_cast<float>(packed << 16);
}
float high(uint32_t packed) {
  return std::bit_cast<float>(packed & 0xffff0000u);
}

struct MmaLane {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
};

// D[16][8] += A[16][K] · B[K][8], with the rows of B contiguous so that 8 columns are one vector.
template <int K>
void multiply(float (&d)[16][8], const float (&a)[16][K], const float (&b)[K][8]) {
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < K; ++k) {
      for (int j = 0; j < 8; ++j) d[i][j] += a[i][k] * b[k][j];
    }
  }
}

template <typename T>
T lane_value(const Warp& warp, int lane) {
  T value;
  std::memcpy(&value, warp.slots[warp.parity][lane], sizeof value);
  return value;
}

void hand_in(const void* value, size_t bytes) {
  const Thread& thread = self();
  std::memcpy(thread.warp->slots[thread.warp->parity][thread.lane], value, bytes);
}

void load_d(const Warp& warp, float (&d)[16][8]) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const float* const from = lane_value<MmaLane>(warp, lane).d;
    const int g = lane / 4, t = lane % 4;
    for (int q = 0; q < 4; ++q) d[g + 8 * (q >> 1)][2 * t + (q & 1)] = from[q];
  }
}
void store_d(const Warp& warp, const float (&d)[16][8]) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    float* const to = lane_value<MmaLane>(warp, lane).d;
    const int g = lane / 4, t = lane % 4;
    for (int q = 0; q < 4; ++q) to[q] = d[g + 8 * (q >> 1)][2 * t + (q & 1)];
  }
}

}  // namespace

void load_matrix(uint32_t* registers, int count, const void* row, bool transposed) {
  if (self().lane < 8 * count) check_shared(row, 16, Access::read);
  const MatrixLane mine{registers, static_cast<std::byte*>(const_cast<void*>(row))};
  hand_in(&mine, sizeof mine);
  gather_warp("ldmatrix", [&](Warp& warp) {
    for (int q = 0; q < count; ++q) {
      uint16_t matrix[8][8];
      for (int i = 0; i < 8; ++i) {
        std::memcpy(matrix[i], lane_value<MatrixLane>(warp, 8 * q + i).row, 16);
      }
      for (int lane = 0; lane < kWarpSize; ++lane) {
        const int i = lane / 4, j = 2 * (lane % 4);
        const uint32_t first = transposed ? matrix[j][i] : matrix[i][j];
        const uint32_t second = transposed ? matrix[j + 1][i] : matrix[i][j + 1];
        lane_value<MatrixLane>(warp, lane).registers[q] = first | second << 16;
      }
    }
  });
}

void store_matrix(const uint32_t* registers, int count, void* row, bool transposed) {
  if (self().lane < 8 * count) check_shared(row, 16, Access::write);
  const MatrixLane mine{const_cast<uint32_t*>(registers), static_cast<std::byte*>(row)};
  hand_in(&mine, sizeof mine);
  gather_warp("stmatrix", [&](Warp& warp) {
    for (int q = 0; q < count; ++q) {
      uint16_t matrix[8][8];
      for (int lane = 0; lane < kWarpSize; ++lane) {
        const int i = lane / 4, j = 2 * (lane % 4);
        const uint32_t packed = lane_value<MatrixLane>(warp, lane).registers[q];
        (transposed ? matrix[j][i] : matrix[i][j]) = static_cast<uint16_t>(packed);
        (transposed ? matrix[j + 1][i] : matrix[i][j + 1]) = static_cast<uint16_t>(packed >> 16);
      }
      for (int i = 0; i < 8; ++i) {
        std::memcpy(lane_value<MatrixLane>(warp, 8 * q + i).row, matrix[i], 16);
      }
    }
  });
}

void mma_m16n8k16(float* d, const uint32_t* a, const uint32_t* b) {
  const MmaLane mine{d, a, b};
  hand_in(&mine, sizeof mine);
  gather_warp("mma.m16n8k16", [](Warp& warp) {
    float matrix_a[16][16], matrix_b[16][8], matrix_d[16][8];
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const MmaLane from = lane_value<MmaLane>(warp, lane);
      const int g = lane / 4, t = lane % 4;
      for (int r = 0; r < 4; ++r) {
        float* const to = &matrix_a[g + 8 * (r & 1)][2 * t + 8 * (r >> 1)];
        to[0] = low(from.a[r]);
        to[1] = high(from.a[r]);
      }
      for (int r = 0; r < 2; ++r) {
        matrix_b[2 * t + 8 * r][g] = low(from.b[r]);
        matrix_b[2 * t + 8 * r + 1][g] = high(from.b[r]);
      }
    }
    load_d(warp, matrix_d);
    multiply(matrix_d, matrix_a, matrix_b);
    count_tensor_flops(2 * 16 * 8 * 16);
    store_d(warp, matrix_d);
  });
}

void mma_m16n8k8(float* d, const uint32_t* a, const uint32_t* b) {
  const MmaLane mine{d, a, b};
  hand_in(&mine, sizeof mine);
  gather_warp("mma.m16n8k8", [](Warp& warp) {
    float matrix_a[16][8], matrix_b[8][8], matrix_d[16][8];
    const auto value = [](uint32_t word) {
      return std::bit_cast<float>(word & 0xffffe000u);  // the low bits are not read
    };
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const MmaLane from = lane_value<MmaLane>(warp, lane);
      const int g = lane / 4, t = lane % 4;
      for (int r = 0; r < 4; ++r) matrix_a[g + 8 * (r & 1)][t + 4 * (r >> 1)] = value(from.a[r]);
      for (int r = 0; r < 2; ++r) matrix_b[t + 4 * r][g] = value(from.b[r]);
    }
    load_d(warp, matrix_d);
    multiply(matrix_d, matrix_a, matrix_b);
    count_tensor_flops(2 * 16 * 8 * 8);
    store_d(warp, matrix_d);
  });
}

}  // namespace engine::kernels::simt
