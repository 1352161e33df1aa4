// Which tile a bf16 product takes, and the kernels of the small ones.
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/matmul/mma_kernel.h"

namespace engine::kernels::ENGINE_GPU {

void matmul_mma(Stream stream, const MatmulProblem& p) {
  // Transposing both is no product of a transformer: it takes the slow path.
  if (!p.vectors_a || !p.vectors_b || (p.transpose_a && p.transpose_b)) {
    return start_mma<MmaUnaligned, AnyOperands<MmaUnaligned>>(stream, p);
  }
  // Cycles per k: the larger of multiplying (1024 products per cycle) and shared memory (128 bytes
  // per cycle: fragments of all warps, and the copies).
  static constexpr TileShape kShapes[] = {
      {MmaLarge::kRows, MmaLarge::kColumns, 32, 1},
      {MmaMedium::kRows, MmaMedium::kColumns, 16, 2},
      {MmaSmall::kRows, MmaSmall::kColumns, 6, 4},
  };
  switch (choose_tile(p, kShapes, multiprocessors(stream))) {
    case 0:
      return matmul_mma_large(stream, p);
    case 1:
      return matmul_mma_medium(stream, p);
    default:
      return start_mma_aligned<MmaSmall>(stream, p);
  }
}

}  // namespace engine::kernels::ENGINE_GPU
