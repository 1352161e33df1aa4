// The tables of the CPU and of the meta device.
#include "kernels/api/operations.h"

#include "kernels/cpu/cpu.h"

namespace engine::kernels {
namespace {

constexpr Operations kCpu = {
    .name = "cpu",
    .matmul = cpu::matmul,
    .column_sum = cpu::column_sum,
    .attention_forward = cpu::attention_forward,
    .attention_backward = cpu::attention_backward,
    .attention_backward_workspace = cpu::attention_backward_workspace,
    .rope = cpu::rope,
    .norm_forward = cpu::norm_forward,
    .norm_backward = cpu::norm_backward,
    .norm_backward_workspace = cpu::norm_backward_workspace,
    .activation_forward = cpu::activation_forward,
    .activation_backward = cpu::activation_backward,
    .embedding_forward = cpu::embedding_forward,
    .embedding_backward = cpu::embedding_backward,
    .embedding_backward_workspace = cpu::embedding_backward_workspace,
    .gather_rows = cpu::gather_rows,
    .scatter_rows = cpu::scatter_rows,
    .dropout = cpu::dropout,
    .linear_cross_entropy = cpu::linear_cross_entropy,
    .linear_cross_entropy_workspace = cpu::linear_cross_entropy_workspace,
    .cross_entropy = cpu::cross_entropy,
    .global_norm = cpu::global_norm,
    .global_norm_workspace = cpu::global_norm_workspace,
    .adamw = cpu::adamw,
    .add = cpu::add,
    .cast = cpu::cast,
    .find_nonfinite = cpu::find_nonfinite,
    .set_zero = cpu::set_zero,
    .copy = cpu::copy,
    .copy_to_device = cpu::copy,
    .copy_to_host = cpu::copy,
    .synchronize = cpu::synchronize,
};

template <typename Arguments>
void nothing(Stream, const Arguments&) {}
void nothing_found(Stream, const FindNonfinite& arguments) {
  *arguments.index = -1;
}
void no_bytes(Stream, void*, size_t) {}
void no_copy(Stream, void*, const void*, size_t) {}

// Workspaces are those of the CPU: shapes decide them, and the plan must be the same.
constexpr Operations kMeta = {
    .name = "meta",
    .matmul = nothing<Matmul>,
    .column_sum = nothing<ColumnSum>,
    .attention_forward = nothing<AttentionForward>,
    .attention_backward = nothing<AttentionBackward>,
    .attention_backward_workspace = cpu::attention_backward_workspace,
    .rope = nothing<Rope>,
    .norm_forward = nothing<NormForward>,
    .norm_backward = nothing<NormBackward>,
    .norm_backward_workspace = cpu::norm_backward_workspace,
    .activation_forward = nothing<ActivationForward>,
    .activation_backward = nothing<ActivationBackward>,
    .embedding_forward = nothing<EmbeddingForward>,
    .embedding_backward = nothing<EmbeddingBackward>,
    .embedding_backward_workspace = cpu::embedding_backward_workspace,
    .gather_rows = nothing<GatherRows>,
    .scatter_rows = nothing<GatherRows>,
    .dropout = nothing<Dropout>,
    .linear_cross_entropy = nothing<LinearCrossEntropy>,
    .linear_cross_entropy_workspace = cpu::linear_cross_entropy_workspace,
    .cross_entropy = nothing<CrossEntropy>,
    .global_norm = nothing<GlobalNorm>,
    .global_norm_workspace = cpu::global_norm_workspace,
    .adamw = nothing<AdamW>,
    .add = nothing<Add>,
    .cast = nothing<Cast>,
    .find_nonfinite = nothing_found,
    .set_zero = no_bytes,
    .copy = no_copy,
    .copy_to_device = no_copy,
    .copy_to_host = no_copy,
    .synchronize = [](Stream) {},
};

}  // namespace

const Operations& operations(DeviceType device) {
  switch (device) {
    case DeviceType::cpu:
      return kCpu;
    case DeviceType::meta:
      return kMeta;
  }
  throw std::logic_error("operations: this build has no such device");
}

}  // namespace engine::kernels
