// bf16 products with an epilogue. No large tile: its 128 sums per thread and two warps that share a
// pair of columns leave no registers, and two blocks of the medium one hide each other's epilogue.
#include "kernels/cuda/matmul/mma_kernel.h"

namespace engine::kernels::ENGINE_GPU {

void matmul_mma_finish(Stream stream, const MatmulProblem& p) {
  static constexpr TileShape kShapes[] = {
      {MmaMedium::kRows, MmaMedium::kColumns, 16, 2},
      {MmaSmall::kRows, MmaSmall::kColumns, 6, 4},
  };
  if (choose_tile(p, kShapes, multiprocessors(stream)) == 0) {
    start_mma_aligned<MmaMedium, BFloat16, true>(stream, "matmul_mma_finish_128x128", p);
  } else {
    start_mma_aligned<MmaSmall, BFloat16, true>(stream, "matmul_mma_finish_64x64", p);
  }
}

}  // namespace engine::kernels::ENGINE_GPU
