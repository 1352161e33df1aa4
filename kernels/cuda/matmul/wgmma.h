// Matrix products on Hopper.
#pragma once

#include "kernels/cuda/matmul/problem.h"

namespace engine::kernels::ENGINE_GPU {

// bf16 by wgmma (wgmma.cu). False, and nothing done, for what it does not take: rows that do not
// start on 16-byte boundaries, sizes under 64, both operands transposed, accumulating into bf16.
bool matmul_wgmma(Stream stream, const MatmulProblem& problem);

}  // namespace engine::kernels::ENGINE_GPU
