// Vendor libraries, kept beside our kernels as rivals: which of them computes an operation on the
// CUDA device. A choice for the whole process, made before the first operation.
#pragma once

#include <cstdint>
#include <string>

namespace engine::kernels {

enum class MatmulBackend : uint8_t {
  engine,     // kernels/cuda/matmul*
  cublas,     // cuBLASLt, its heuristic's first algorithm per shape
  automatic,  // both are timed once per shape; the faster one stays
};

// Throws std::logic_error for a library that this build lacks (has_cublas).
void select_matmul(MatmulBackend backend);
MatmulBackend selected_matmul();
bool has_cublas();

// "engine", "cublas", "auto"; throws std::invalid_argument.
MatmulBackend parse_matmul_backend(const std::string& name);

enum class AttentionBackend : uint8_t {
  engine,     // kernels/cuda/attention: wgmma on Hopper where it can, else mma.sync
  mma,        // the same, mma.sync alone: what every GPU runs
  cudnn,      // cuDNN's fused kernels, for what they can do (kernels/cuda/rivals/cudnn.h)
  automatic,  // both are timed once per shape and direction; the faster one stays
};

// As those of products. `mma` is also for the software GPU.
void select_attention(AttentionBackend backend);
AttentionBackend selected_attention();
bool has_cudnn();
bool needs_cudnn(AttentionBackend backend);

// "engine", "mma", "cudnn", "auto"; throws std::invalid_argument.
AttentionBackend parse_attention_backend(const std::string& name);

}  // namespace engine::kernels
