// Tensor cores, one warp at a time (sm_80 and newer): ldmatrix, stmatrix and mma.sync.
//
// Fragments of mma.m16n8k16 with bf16 inputs; lane l, g = l / 4, t = l % 4 (PTX ISA, "Matrix
// Fragments for mma.m16n8k16"):
//   A [16,16]  register r, half h:  row g + 8 (r & 1),  column 2t + h + 8 (r >> 1)
//   B [16,8]   register r, half h:  row 2t + h + 8r,    column g
//   C, D [16,8] fp32, register q:   row g + 8 (q >> 1), column 2t + (q & 1)
// So two neighbouring D tiles, packed to bf16, are an A fragment: the softmax of attention stays in
// registers.
//
// mma.m16n8k8 with tf32 inputs, one fp32 word per register:
//   A [16,8]   register r:  row g + 8 (r & 1),  column t + 4 (r >> 1)
//   B [8,8]    register r:  row t + 4r,         column g
//
// ldmatrix reads 8x8 matrices of 16-bit elements: for matrix q the lanes 8q .. 8q+7 give the
// addresses of its rows (16 bytes each, aligned); lane l receives row l / 4, columns 2 (l % 4) and
// the next. transposed: lane l receives column l / 4, rows 2 (l % 4) and the next. stmatrix is the
// inverse (sm_90).
#pragma once

#include "kernels/cuda/device/memory.h"
#if !ENGINE_ON_GPU
#include "kernels/simt/matrix.h"
#endif

namespace engine::kernels::ENGINE_GPU {

// r[q] = the lane's part of matrix q; `row` = the row that this lane addresses.
template <bool transposed = false>
ENGINE_DEVICE void load_matrix_x4(uint32_t (&r)[4], Shared<BFloat16> row) {
#if ENGINE_ON_GPU
  if constexpr (transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
  }
#else
  load_matrix(r, 4, row.pointer, transposed);
#endif
}
// The lanes 0 .. 15 give the rows.
template <bool transposed = false>
ENGINE_DEVICE void load_matrix_x2(uint32_t (&r)[2], Shared<BFloat16> row) {
#if ENGINE_ON_GPU
  if constexpr (transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
  }
#else
  load_matrix(r, 2, row.pointer, transposed);
#endif
}

// sm_90: writes the lane's parts of four matrices to their rows.
template <bool transposed = false>
ENGINE_DEVICE void store_matrix_x4(Shared<BFloat16> row, const uint32_t (&r)[4]) {
#if ENGINE_ON_GPU
  if constexpr (transposed) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};"
                 :
                 : "r"(shared_address(row)), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
  } else {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
                 :
                 : "r"(shared_address(row)), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
  }
#else
  store_matrix(r, 4, row.pointer, transposed);
#endif
}

// D += A · B in fp32.
ENGINE_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if ENGINE_ON_GPU
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  mma_m16n8k16(d, a, b);
#endif
}

// fp32 rounded to tf32 (10 mantissa bits, to nearest, ties away from zero). Any NaN becomes
// 7fffffff.
ENGINE_DEVICE uint32_t to_tf32(float x) {
#if ENGINE_ON_GPU
  uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
#else
  if (x != x) return 0x7fffffffu;
  return (std::bit_cast<uint32_t>(x) + 0x1000u) & 0xffffe000u;
#endif
}
// The same of a register that ldmatrix filled.
ENGINE_DEVICE uint32_t to_tf32(uint32_t bits) {
#if ENGINE_ON_GPU
  return to_tf32(__uint_as_float(bits));
#else
  return to_tf32(std::bit_cast<float>(bits));
#endif
}
ENGINE_DEVICE void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if ENGINE_ON_GPU
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  mma_m16n8k8(d, a, b);
#endif
}

}  // namespace engine::kernels::ENGINE_GPU
