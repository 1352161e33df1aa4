// fp32 products as TF32 on tensor cores.
#include "kernels/cuda/matmul/mma_kernel.h"

namespace engine::kernels::ENGINE_GPU {
namespace {

template <typename Shape>
void start(Stream stream, const char* name, const MatmulProblem& p) {
  if (p.transpose_a) {
    start_mma<Shape, AlignedOperands<Shape, float, true, false, true>, true>(stream, name, p);
  } else {
    start_mma_aligned<Shape, float, true>(stream, name, p);
  }
}

}  // namespace

void matmul_tf32(Stream stream, const MatmulProblem& p) {
  // Twice the cycles of bf16 for the same k.
  static constexpr TileShape kShapes[] = {
      {MmaMedium::kRows, MmaMedium::kColumns, 32, 2},
      {MmaSmall::kRows, MmaSmall::kColumns, 12, 4},
  };
  if (choose_tile(p, kShapes, multiprocessors(stream)) == 0) {
    start<MmaMedium>(stream, "matmul_tf32_128x128", p);
  } else {
    start<MmaSmall>(stream, "matmul_tf32_64x64", p);
  }
}

}  // namespace engine::kernels::ENGINE_GPU
