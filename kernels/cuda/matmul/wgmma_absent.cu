// In builds without Hopper's kernels: mma.cu takes all products.
#include "kernels/cuda/matmul/problem.h"

namespace engine::kernels::ENGINE_GPU {

bool matmul_wgmma(Stream, const MatmulProblem&) {
  return false;
}

}  // namespace engine::kernels::ENGINE_GPU
