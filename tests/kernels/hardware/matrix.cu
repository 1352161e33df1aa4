// ldmatrix and mma.sync: which lane holds what, and how products are summed.
#include "kernels/cuda/device/launch.h"
#include "kernels/cuda/device/mma.h"
#include "kernels/cuda/device/warp.h"
#include "tests/kernels/hardware/arrays.h"
#include "tests/kernels/hardware/assumption.h"

namespace engine::kernels::ENGINE_GPU::hardware {
namespace {

using namespace testing;

// --- ldmatrix ----------------------------------------------------------------------------------

// Four 8x8 matrices one after the other; every lane's registers to `out` [variant][lane][8].
__global__ void ldmatrix_kernel(const BFloat16* x, float* out) {
  SharedMemory shared;
  const auto tile = shared.take<BFloat16>(256);
  const int lane = lane_index();
  store_vector(tile + lane * 8, load_vector<8>(x + lane * 8));
  sync_warp();
  uint32_t r[4], s[4], two[2], two_transposed[2];
  load_matrix_x4(r, tile + lane * 8);
  load_matrix_x4<true>(s, tile + lane * 8);
  load_matrix_x2(two, tile + lane % 16 * 8);
  load_matrix_x2<true>(two_transposed, tile + lane % 16 * 8);
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    store(out + lane * 8 + 2 * q, low_bf16(r[q]));
    store(out + lane * 8 + 2 * q + 1, high_bf16(r[q]));
    store(out + 256 + lane * 8 + 2 * q, low_bf16(s[q]));
    store(out + 256 + lane * 8 + 2 * q + 1, high_bf16(s[q]));
    const uint32_t both = q < 2 ? two[q] : two_transposed[q - 2];
    store(out + 512 + lane * 8 + 2 * q, low_bf16(both));
    store(out + 512 + lane * 8 + 2 * q + 1, high_bf16(both));
  }
}

void ldmatrix(Report& report) {
  const auto x = counted(256);
  const OnDevice<BFloat16> device(to_bf16(x));
  const OnDevice<float> out(768);
  launch({}, "ldmatrix", ldmatrix_kernel, {.grid = {1}, .block = {32}, .shared_bytes = 512},
         static_cast<const BFloat16*>(device.data()), out.data());
  report.compare("x4, x4.trans, x2 and x2.trans", out.values(), [&](size_t i) {
    const size_t lane = i / 8 % 32, q = i % 8 / 2, half = i % 2;
    const size_t row = lane / 4, column = 2 * (lane % 4) + half;
    const size_t matrix = i < 512 ? q : q % 2;
    const bool transposed = i < 512 ? i >= 256 : q >= 2;
    return x[matrix * 64 + (transposed ? column * 8 + row : row * 8 + column)];
  });
}

// --- mma.sync ----------------------------------------------------------------------------------

// D = C + A B by the fragments of mma.h, straight from device memory.
__global__ void mma_bf16_kernel(const BFloat16* a, const BFloat16* b, const float* c, float* d) {
  const int g = lane_index() / 4, t = lane_index() % 4;
  uint32_t fragment_a[4], fragment_b[2];
  float sums[4];
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const BFloat16* const from = a + (g + 8 * (r & 1)) * 16 + 2 * t + 8 * (r >> 1);
    fragment_a[r] = pack_bf16(to_float(load(from)), to_float(load(from + 1)));
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const BFloat16* const from = b + (2 * t + 8 * r) * 8 + g;
    fragment_b[r] = pack_bf16(to_float(load(from)), to_float(load(from + 8)));
  }
#pragma unroll
  for (int q = 0; q < 4; ++q) sums[q] = load(c + (g + 8 * (q >> 1)) * 8 + 2 * t + (q & 1));
  mma_bf16(sums, fragment_a, fragment_b);
#pragma unroll
  for (int q = 0; q < 4; ++q) store(d + (g + 8 * (q >> 1)) * 8 + 2 * t + (q & 1), sums[q]);
}

// A [16,16], B [16,8], C [16,8].
std::vector<float> product(const std::vector<float>& a, const std::vector<float>& b,
                           const std::vector<float>& c) {
  const OnDevice<BFloat16> device_a(to_bf16(a)), device_b(to_bf16(b));
  const OnDevice<float> device_c(c), d(128);
  launch({}, "mma_bf16", mma_bf16_kernel, {.grid = {1}, .block = {32}},
         static_cast<const BFloat16*>(device_a.data()),
         static_cast<const BFloat16*>(device_b.data()), static_cast<const float*>(device_c.data()),
         d.data());
  return d.values();
}
double product_at(const std::vector<float>& a, const std::vector<float>& b,
                  const std::vector<float>& c, size_t i, bool sizes = false) {
  double sum = sizes ? std::abs(c[i]) : c[i];
  for (size_t k = 0; k < 16; ++k) {
    const double term = static_cast<double>(a[i / 8 * 16 + k]) * b[k * 8 + i % 8];
    sum += sizes ? std::abs(term) : term;
  }
  return sum;
}

void mma_bf16_fragments(Report& report) {
  const auto a = small_integers(256, 11), b = small_integers(128, 12), c = small_integers(128, 13);
  report.compare("D", product(a, b, c), [&](size_t i) { return product_at(a, b, c, i); });
}

// Terms of very different sizes: what is lost against exact sums is a few units of the last place
// of the largest.
void mma_bf16_sums(Report& report) {
  auto a = small_integers(256, 14), b = small_integers(128, 15), c = small_integers(128, 16);
  for (size_t i = 0; i < a.size(); ++i) a[i] = std::ldexp(a[i], -static_cast<int>(i * 7 % 23));
  for (size_t i = 0; i < b.size(); ++i) b[i] = std::ldexp(b[i], static_cast<int>(i * 5 % 11));
  const auto exact = [&](size_t i) { return product_at(a, b, c, i); };
  report.compare_near("D", product(a, b, c), exact,
                      [&](size_t i) { return std::ldexp(product_at(a, b, c, i, true), -21); });
}

// Subnormal operands count, NaN and infinity spread to their row and column alone.
void mma_bf16_specials(Report& report) {
  std::vector<float> a(256, 0.0f), b(128, 0.0f), c(128, 0.0f);
  a[0 * 16 + 3] = 0x1p-130f;  // a subnormal of bf16
  b[3 * 8 + 0] = 0x1p20f;
  b[3 * 8 + 1] = 0x1p-7f;  // whose product is a subnormal of fp32
  a[2 * 16 + 5] = NAN;
  a[4 * 16 + 6] = INFINITY;
  b[6 * 8 + 2] = 1.0f;
  const auto d = product(a, b, c);
  report.require(d[0] == 0x1p-110f, "a subnormal operand is not counted");
  report.require(d[1] == 0x1p-137f || d[1] == 0.0f, "a subnormal product is neither kept nor zero");
  for (int j = 0; j < 8; ++j) {
    report.require(std::isnan(d[2 * 8 + j]), "NaN does not spread");
    report.require(j == 2 ? d[4 * 8 + j] == INFINITY : std::isnan(d[4 * 8 + j]),
                   "infinity times 1 and 0");
    report.require(d[6 * 8 + j] == 0.0f, "a row without NaN has one");
  }
}

// Two neighbouring D tiles, packed, are an A fragment: (A B) E with E [16,8].
__global__ void chain_kernel(const BFloat16* a, const BFloat16* b, const BFloat16* e, float* out) {
  SharedMemory shared;
  const auto tile_a = shared.take<BFloat16>(256), tile_b = shared.take<BFloat16>(256),
             tile_e = shared.take<BFloat16>(128);
  const int lane = lane_index();
  for (int i = lane; i < 256; i += kWarp) store(tile_a + i, load(a + i));
  for (int i = lane; i < 256; i += kWarp) store(tile_b + i, load(b + i));
  for (int i = lane; i < 128; i += kWarp) store(tile_e + i, load(e + i));
  sync_warp();
  uint32_t fragment[4], columns[2][2], last[2];
  load_matrix_x4(fragment, tile_a + lane % 16 * 16 + lane / 16 * 8);
  load_matrix_x2<true>(columns[0], tile_b + lane % 16 * 16);
  load_matrix_x2<true>(columns[1], tile_b + lane % 16 * 16 + 8);
  load_matrix_x2<true>(last, tile_e + lane % 16 * 8);
  float left[4] = {}, right[4] = {}, sums[4] = {};
  mma_bf16(left, fragment, columns[0]);
  mma_bf16(right, fragment, columns[1]);
  const uint32_t packed[4] = {pack_bf16(left[0], left[1]), pack_bf16(left[2], left[3]),
                              pack_bf16(right[0], right[1]), pack_bf16(right[2], right[3])};
  mma_bf16(sums, packed, last);
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    store(out + (lane / 4 + 8 * (q >> 1)) * 8 + 2 * (lane % 4) + (q & 1), sums[q]);
  }
}

void mma_chain(Report& report) {
  // sums of at most 16 products of 0 and 1 are exact in bf16
  std::vector<float> a = small_integers(256, 17), b = small_integers(256, 18);
  for (float& x : a) x = x > 0;
  for (float& x : b) x = x > 0;
  const auto e = small_integers(128, 19);
  const OnDevice<BFloat16> device_a(to_bf16(a)), device_b(to_bf16(b)), device_e(to_bf16(e));
  const OnDevice<float> out(128);
  launch({}, "chain", chain_kernel, {.grid = {1}, .block = {32}, .shared_bytes = 1280},
         static_cast<const BFloat16*>(device_a.data()),
         static_cast<const BFloat16*>(device_b.data()),
         static_cast<const BFloat16*>(device_e.data()), out.data());
  report.compare("(A B) E", out.values(), [&](size_t i) {
    double sum = 0;
    for (size_t j = 0; j < 16; ++j) {
      double inner = 0;
      for (size_t k = 0; k < 16; ++k) inner += a[i / 8 * 16 + k] * b[k * 16 + j];
      sum += inner * e[j * 8 + i % 8];
    }
    return sum;
  });
}

// `noise` is put into the 13 bits that tf32 lacks.
__global__ void mma_tf32_kernel(const float* a, const float* b, float* d, uint32_t noise) {
  const int g = lane_index() / 4, t = lane_index() % 4;
  uint32_t fragment_a[4], fragment_b[2];
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    fragment_a[r] = to_tf32(load(a + (g + 8 * (r & 1)) * 8 + t + 4 * (r >> 1))) | noise;
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) fragment_b[r] = to_tf32(load(b + (t + 4 * r) * 8 + g)) | noise;
  float sums[4] = {};
  mma_tf32(sums, fragment_a, fragment_b);
#pragma unroll
  for (int q = 0; q < 4; ++q) store(d + (g + 8 * (q >> 1)) * 8 + 2 * t + (q & 1), sums[q]);
}

void mma_tf32_fragments(Report& report) {
  const auto a = small_integers(128, 13), b = small_integers(64, 14);
  const OnDevice<float> device_a(a), device_b(b), d(128);
  for (const uint32_t noise : {0u, 0x1fffu}) {
    launch({}, "mma_tf32", mma_tf32_kernel, {.grid = {1}, .block = {32}},
           static_cast<const float*>(device_a.data()), static_cast<const float*>(device_b.data()),
           d.data(), noise);
    report.compare(noise == 0 ? "D" : "D with low bits set", d.values(), [&](size_t i) {
      double sum = 0;
      for (size_t k = 0; k < 8; ++k) sum += a[i / 8 * 8 + k] * b[k * 8 + i % 8];
      return sum;
    });
  }
}

}  // namespace

Assumptions matrix_assumptions() {
  static const Assumption all[] = {
      {"ldmatrix", "ldmatrix x4 and x2, plain and .trans: who gets which element", 80, ldmatrix},
      {"mma_bf16", "mma.m16n8k16 bf16: fragments of A, B, C and D", 80, mma_bf16_fragments},
      {"mma_bf16_sums", "its sums lose at most 2^-21 of the sizes of their terms", 80,
       mma_bf16_sums},
      {"mma_bf16_specials", "it counts subnormals and spreads NaN and infinity", 80,
       mma_bf16_specials},
      {"mma_chain", "two D tiles packed to bf16 are an A fragment", 80, mma_chain},
      {"mma_tf32", "mma.m16n8k8 tf32: fragments, and low bits that are not read", 80,
       mma_tf32_fragments},
  };
  return all;
}

}  // namespace engine::kernels::ENGINE_GPU::hardware
