// Loss, argmax and gradient of rows of logits.
#pragma once

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/matmul/problem.h"

namespace engine::kernels::ENGINE_GPU {

struct LossRows {
  float* logits;  // row i of the chunk at i * stride; dz, of its own dtype, lies over it
  int64_t stride;
  int classes;
  const int32_t* rows;   // [i]: the row's place in targets, losses and argmax; null: i
  const int32_t* count;  // rows of all chunks; null: all exist
  int first;
  const int32_t* targets;
  float logit_scale;
  Scalar<float> grad_scale;
  float* losses;
  int32_t* argmax;  // or null
  bool gradient;
  bool vectors;  // rows start on 16-byte boundaries
  // What the product that made the logits says of every 32 of them; null: they are read for it.
  const SoftmaxPart* parts = nullptr;
  int64_t part_stride = 0;
};
// `rows` of them at most. `gradient`: the dtype of dz.
void cross_entropy_rows(Stream stream, const LossRows& p, int64_t rows, DType gradient);

}  // namespace engine::kernels::ENGINE_GPU
