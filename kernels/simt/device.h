// The words of CUDA C++ that kernels use, for a host compiler. Only kernels/cuda/device/platform.h
// includes this.
#pragma once

#include "kernels/simt/machine.h"
#include "kernels/simt/stream.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __restrict__ __restrict

#define threadIdx (::engine::kernels::simt::self().thread_index)
#define blockIdx (::engine::kernels::simt::self().block_index)
#define blockDim (::engine::kernels::simt::this_cluster().block_shape)
#define gridDim (::engine::kernels::simt::this_cluster().grid)
