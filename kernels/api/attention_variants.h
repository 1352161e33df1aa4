// The forward of attention as a reader of docs/kernels.md meets it: from the formula to the kernel
// that trains. All compute what attention.h says, without bias and dropout; the engine uses `wgmma`
// where it exists (Hopper, bf16, heads of 33 to 128) and `mma` elsewhere. Where the build has
// cuDNN, its kernel stands behind ours.
#pragma once

#include "kernels/api/attention.h"

namespace engine::kernels {

struct AttentionVariant {
  const char* name;
  void (*forward)(Stream, const AttentionForward&);
};

// Ours slowest first; `wgmma` only where the GPU has it, and as `mma` for shapes it does not take.
struct AttentionVariants {
  const AttentionVariant* first = nullptr;
  int count = 0;
  const AttentionVariant* begin() const { return first; }
  const AttentionVariant* end() const { return first + count; }
};

// Of `cuda` or `simt`; none on other devices.
AttentionVariants attention_variants(DeviceType device);

}  // namespace engine::kernels
