// The medium tile of mma_kernel.h.
#include "kernels/cuda/matmul/mma_kernel.h"

namespace engine::kernels::ENGINE_GPU {

void matmul_mma_medium(Stream stream, const MatmulProblem& problem) {
  start_mma_plain<MmaMedium, BFloat16>(stream, "matmul_mma_128x128", problem);
}

}  // namespace engine::kernels::ENGINE_GPU
