// The operations of the GPU devices, as operations.cu puts them into their table. Compiled twice:
// namespace `cuda` by nvcc, namespace `simt` by the host compiler for the software GPU.
#pragma once

#include "kernels/api/operations.h"
#include "kernels/cuda/device/platform.h"

namespace engine::kernels::ENGINE_GPU {

// The device itself: runtime.cu, and kernels/simt/runtime.cpp.
void* allocate(Stream stream, size_t bytes);  // null when there is too little memory
void release(Stream stream, void* data);
void set_zero(Stream stream, void* data, size_t bytes);
void copy(Stream stream, void* to, const void* from, size_t bytes);
void copy_to_device(Stream stream, void* to, const void* from, size_t bytes);
void copy_to_host(Stream stream, void* to, const void* from, size_t bytes);
void copy_to_host_async(Stream stream, void* to, const void* from, size_t bytes);
void synchronize(Stream stream);
void* allocate_pinned(Stream stream, size_t bytes);
void release_pinned(Stream stream, void* data);
void* create_stream(Stream stream);
void destroy_stream(Stream stream);
void* create_event(Stream stream);
void record_event(Stream stream, void* event);
void wait_event(Stream stream, void* event);
void destroy_event(Stream stream, void* event);
void begin_recording(Stream stream);
void* end_recording(Stream stream);
void cancel_recording(Stream stream);
void replay(Stream stream, void* recording);
void release_recording(Stream stream, void* recording);
void begin_range(const char* name);
void end_range();
DeviceCount count_devices();
DeviceInfo device_info(Stream stream);
// Streaming multiprocessors, and compute capability as 10 * major + minor.
int multiprocessors(Stream stream);
int compute_capability(Stream stream);

void matmul(Stream stream, const Matmul& arguments);
size_t matmul_workspace(const Matmul& arguments);
void column_sum(Stream stream, const ColumnSum& arguments);

void attention_forward(Stream stream, const AttentionForward& arguments);
void attention_forward_mma(Stream stream, const AttentionForward& arguments);  // without wgmma
void attention_backward(Stream stream, const AttentionBackward& arguments);
size_t attention_forward_workspace(const AttentionShape& shape);
size_t attention_backward_workspace(const AttentionShape& shape);

void rope(Stream stream, const Rope& arguments);

void norm_forward(Stream stream, const NormForward& arguments);
void norm_backward(Stream stream, const NormBackward& arguments);
size_t norm_backward_workspace(int64_t tokens, int64_t hidden);

void activation_forward(Stream stream, const ActivationForward& arguments);
void activation_backward(Stream stream, const ActivationBackward& arguments);

void embedding_forward(Stream stream, const EmbeddingForward& arguments);
void embedding_backward(Stream stream, const EmbeddingBackward& arguments);
size_t embedding_backward_workspace(int64_t tokens, int64_t hidden, int64_t rows,
                                    int64_t position_rows);
void gather_rows(Stream stream, const GatherRows& arguments);
void scatter_rows(Stream stream, const GatherRows& arguments);

void dropout(Stream stream, const Dropout& arguments);

void linear_cross_entropy(Stream stream, const LinearCrossEntropy& arguments);
size_t linear_cross_entropy_workspace(const LinearCrossEntropy& arguments);
void cross_entropy(Stream stream, const CrossEntropy& arguments);
void score_loss(Stream stream, const ScoreLoss& arguments);

size_t optimizer_table_bytes(int num_segments);
void make_optimizer_table(Stream stream, const OptimizerTable& arguments);
void flag_nonfinite(Stream stream, const FlagNonfinite& arguments);
void global_norm(Stream stream, const GlobalNorm& arguments);
size_t global_norm_workspace(int64_t total_count, int num_segments);
void adamw(Stream stream, const AdamW& arguments);

void add(Stream stream, const Add& arguments);
void cast(Stream stream, const Cast& arguments);
void find_nonfinite(Stream stream, const FindNonfinite& arguments);

// The table of these.
const Operations& table();

}  // namespace engine::kernels::ENGINE_GPU
