// The large tile of mma_kernel.h.
#include "kernels/cuda/matmul/mma_kernel.h"

namespace engine::kernels::ENGINE_GPU {

void matmul_mma_large(Stream stream, const MatmulProblem& problem) {
  start_mma_plain<MmaLarge, BFloat16>(stream, "matmul_mma_128x256", problem);
}

}  // namespace engine::kernels::ENGINE_GPU
