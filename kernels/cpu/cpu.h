// Declarations of the CPU implementations; contracts are in kernels/api.
#pragma once

#include "kernels/api/operations.h"

namespace engine::kernels::cpu {

void matmul(Stream, const Matmul&);
size_t matmul_workspace(const Matmul&);
void column_sum(Stream, const ColumnSum&);
void attention_forward(Stream, const AttentionForward&);
void attention_backward(Stream, const AttentionBackward&);
size_t attention_backward_workspace(const AttentionShape&);
void rope(Stream, const Rope&);
void norm_forward(Stream, const NormForward&);
void norm_backward(Stream, const NormBackward&);
size_t norm_backward_workspace(int64_t tokens, int64_t hidden);
void activation_forward(Stream, const ActivationForward&);
void activation_backward(Stream, const ActivationBackward&);
void embedding_forward(Stream, const EmbeddingForward&);
void embedding_backward(Stream, const EmbeddingBackward&);
size_t embedding_backward_workspace(int64_t tokens, int64_t hidden, int64_t rows,
                                    int64_t position_rows);
void gather_rows(Stream, const GatherRows&);
void scatter_rows(Stream, const GatherRows&);
void dropout(Stream, const Dropout&);
void linear_cross_entropy(Stream, const LinearCrossEntropy&);
size_t linear_cross_entropy_workspace(const LinearCrossEntropy&);
void cross_entropy(Stream, const CrossEntropy&);
void score_loss(Stream, const ScoreLoss&);
void flag_nonfinite(Stream, const FlagNonfinite&);
void global_norm(Stream, const GlobalNorm&);
size_t global_norm_workspace(int64_t total_count, int num_segments);
void adamw(Stream, const AdamW&);
void add(Stream, const Add&);
void cast(Stream, const Cast&);
void find_nonfinite(Stream, const FindNonfinite&);
void set_zero(Stream, void* data, size_t bytes);
void copy(Stream, void* to, const void* from, size_t bytes);
void synchronize(Stream);
void* allocate(Stream, size_t bytes);
void release(Stream, void* data);

// The table of these.
const Operations& table();

}  // namespace engine::kernels::cpu
