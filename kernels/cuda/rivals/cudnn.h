// Attention by cuDNN's fused kernels, under the contract of kernels/api/attention.h.
#pragma once

#include "kernels/api/attention.h"

namespace engine::kernels::cuda {

// Plans are compiled once per shape and kept; batches of sequences of unequal lengths share plans.
// The gradients are summed with atomics: their bits may differ between runs. What cuDNN cannot do
// (cudnn_cannot) is computed by our kernels; the first time, a line on standard error says so.
// Throws GpuError.
void attention_forward_cudnn(Stream stream, const AttentionForward& arguments);
void attention_backward_cudnn(Stream stream, const AttentionBackward& arguments);

// The faster of ours and cuDNN's for this shape and direction, found by timing both once.
void attention_forward_auto(Stream stream, const AttentionForward& arguments);
void attention_backward_auto(Stream stream, const AttentionBackward& arguments);

}  // namespace engine::kernels::cuda
