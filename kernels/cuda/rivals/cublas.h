// Matrix products by cuBLASLt, under the contract of kernels/api/matmul.h.
#pragma once

#include "kernels/api/matmul.h"

namespace engine::kernels::cuda {

// Descriptors and the algorithm are looked up once per shape and kept. Throws GpuError.
void matmul_cublas(Stream stream, const Matmul& arguments);

// The faster of ours and cuBLASLt's for this shape, found by timing both once.
void matmul_auto(Stream stream, const Matmul& arguments);

}  // namespace engine::kernels::cuda
