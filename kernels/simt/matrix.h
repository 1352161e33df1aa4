// Functional models of the tensor core's warp instructions; layouts in kernels/cuda/device/mma.h.
#pragma once

#include <cstdint>

namespace engine::kernels::simt {

// ldmatrix of `count` (1, 2 or 4) 8x8 matrices of 16-bit elements.
void load_matrix(uint32_t* registers, int count, const void* row, bool transposed);
// stmatrix, its inverse.
void store_matrix(const uint32_t* registers, int count, void* row, bool transposed);

// D += A · B. Products and sums are fp32, k ascending; hardware sums in an order of its own.
void mma_m16n8k16(float* d, const uint32_t* a, const uint32_t* b);  // bf16
void mma_m16n8k8(float* d, const uint32_t* a, const uint32_t* b);   // tf32

}  // namespace engine::kernels::simt
