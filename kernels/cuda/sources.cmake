# The kernels, relative to this folder. Each is compiled by the host compiler for the software GPU
# and, where there is a CUDA toolkit, by nvcc.
set(ENGINE_GPU_KERNELS
  activation.cu
  cross_entropy.cu
  elementwise.cu
  embedding.cu
  matmul.cu
  matmul/fma.cu
  matmul/mma.cu
  norm.cu
  operations.cu
  rope.cu)
