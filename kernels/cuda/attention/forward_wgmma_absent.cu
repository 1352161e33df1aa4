// In builds without Hopper's kernels: forward_bf16.cu takes all of attention.
#include "kernels/cuda/attention/forward.h"

namespace engine::kernels::ENGINE_GPU::attention {

bool forward_wgmma(const Stream&, const ForwardArguments<BFloat16>&) {
  return false;
}

}  // namespace engine::kernels::ENGINE_GPU::attention
