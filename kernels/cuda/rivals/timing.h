// Which of two ways is faster: asked once per shape.
#pragma once

#include "kernels/cuda/device/launch.h"

namespace engine::kernels::cuda {

// Is this stream being recorded into a CUDA graph? Then nothing can be timed or allocated.
inline bool is_capturing(const Stream& stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (cudaStreamIsCapturing(static_cast<cudaStream_t>(stream.handle), &status) != cudaSuccess) {
    cudaGetLastError();  // of the default stream while another one is captured
    return false;
  }
  return status != cudaStreamCaptureStatusNone;
}

// Milliseconds of run() on this stream: the least of some, after one that loads the kernel.
template <typename Run>
float milliseconds(const Stream& stream, const Run& run) {
  cudaEvent_t start = nullptr, end = nullptr;
  check(cudaEventCreate(&start), "cudaEventCreate");
  check(cudaEventCreate(&end), "cudaEventCreate");
  float least = 0;
  for (int i = 0; i < 5; ++i) {
    cudaEventRecord(start, static_cast<cudaStream_t>(stream.handle));
    run();
    cudaEventRecord(end, static_cast<cudaStream_t>(stream.handle));
    check(cudaEventSynchronize(end), "timing of an operation");
    float taken = 0;
    cudaEventElapsedTime(&taken, start, end);
    if (i == 1 || (i > 1 && taken < least)) least = taken;
  }
  cudaEventDestroy(start);
  cudaEventDestroy(end);
  return least;
}

}  // namespace engine::kernels::cuda
