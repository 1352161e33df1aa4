// bf16 products on Hopper with an epilogue.
#include "kernels/cuda/matmul/wgmma_kernel.h"

namespace engine::kernels::ENGINE_GPU::wgmma_matmul {
namespace {

template <Major major_b, typename T>
void launch_columns(Stream stream, const Arguments& arguments, const Plan& plan,
                    int multiprocessors) {
  if (plan.columns == 256) {
    launch_kernel<256, Major::k, major_b, T, true>(stream, arguments, plan, multiprocessors);
  } else {
    launch_kernel<128, Major::k, major_b, T, true>(stream, arguments, plan, multiprocessors);
  }
}

}  // namespace

bool launch_finish(Stream stream, const Arguments& arguments, const Plan& plan,
                   int multiprocessors) {
  const MatmulProblem& p = arguments.problem;
  if (p.transpose_a) return false;  // no weight gradient has an epilogue
  if (p.finish.kind == MatmulFinish::Kind::softmax) {
    if (!p.transpose_b) return false;  // heads are [vocabulary, hidden]
    launch_columns<Major::k, float>(stream, arguments, plan, multiprocessors);
  } else if (!p.output_bf16) {
    return false;
  } else if (p.transpose_b) {
    launch_columns<Major::k, BFloat16>(stream, arguments, plan, multiprocessors);
  } else {
    launch_columns<Major::mn, BFloat16>(stream, arguments, plan, multiprocessors);
  }
  return true;
}

}  // namespace engine::kernels::ENGINE_GPU::wgmma_matmul
