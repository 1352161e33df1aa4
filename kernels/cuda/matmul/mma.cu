// Which tile a product on tensor cores takes, and the kernels of the small and the unaligned one.
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/matmul/mma_kernel.h"

namespace engine::kernels::ENGINE_GPU {

void matmul_mma(Stream stream, const MatmulProblem& p) {
  const bool finish = p.finish.kind != MatmulFinish::Kind::none;
  // Transposing both is no product of a transformer, nor is an epilogue of a weight gradient: they
  // take the slow path.
  if (!p.vectors_a || !p.vectors_b || (p.transpose_a && (p.transpose_b || finish))) {
    return start_mma<MmaUnaligned, AnyOperands<MmaUnaligned>, true>(stream, "matmul_mma_unaligned",
                                                                    p);
  }
  if (finish) return matmul_mma_finish(stream, p);
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
      return start_mma_plain<MmaSmall, BFloat16>(stream, "matmul_mma_64x64", p);
  }
}

}  // namespace engine::kernels::ENGINE_GPU
