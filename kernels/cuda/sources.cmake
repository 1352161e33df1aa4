# The kernels, relative to this folder. Each is compiled by the host compiler for the software GPU
# and, where there is a CUDA toolkit, by nvcc.
set(ENGINE_GPU_KERNELS
  activation.cu
  attention/attention.cu
  attention/backward_bias.cu
  attention/backward_fp32.cu
  attention/backward_keys_bf16.cu
  attention/backward_queries_bf16.cu
  attention/decode.cu
  attention/forward_bf16.cu
  attention/forward_fp32.cu
  attention/steps.cu
  column_sum.cu
  cross_entropy.cu
  cross_entropy/loss.cu
  cross_entropy/targets.cu
  dropout.cu
  elementwise.cu
  embedding.cu
  embedding/sort.cu
  matmul.cu
  matmul/fma.cu
  matmul/mma.cu
  matmul/mma_finish.cu
  matmul/mma_large.cu
  matmul/mma_medium.cu
  matmul/mma_tf32.cu
  matmul/parts.cu
  norm/backward.cu
  norm/forward.cu
  operations.cu
  optimizer.cu
  rope.cu
  rows.cu
  score_loss.cu)

# Kernels that only Hopper runs (wgmma, TMA): compiled for sm_90a alone.
set(ENGINE_HOPPER_KERNELS
  attention/forward_wgmma.cu
  matmul/wgmma.cu
  matmul/wgmma_finish.cu)
# What takes their place in builds for other GPUs alone.
set(ENGINE_HOPPER_ABSENT
  attention/forward_wgmma_absent.cu
  matmul/wgmma_absent.cu)
