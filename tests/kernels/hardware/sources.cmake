# Assumptions about hardware. As kernels/cuda/sources.cmake: each file is compiled by the host
# compiler for the software GPU and, where there is a CUDA toolkit, by nvcc.
set(ENGINE_ASSUMPTIONS
  cp_async.cu
  math.cu
  matrix.cu
  warp.cu)
# Of Hopper, sm_90a alone.
set(ENGINE_HOPPER_ASSUMPTIONS
  cluster.cu
  mbarrier.cu
  stmatrix.cu
  tma.cu
  wgmma.cu)
