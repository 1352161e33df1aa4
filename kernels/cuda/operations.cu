// The table of a GPU device.
#include "kernels/cuda/cuda.h"

namespace engine::kernels::ENGINE_GPU {

const Operations& table() {
  static constexpr Operations operations = {
      .name = kDeviceName,
      .matmul = matmul,
      .matmul_workspace = matmul_workspace,
      .column_sum = column_sum,
      .attention_forward = attention_forward,
      .attention_backward = attention_backward,
      .attention_forward_workspace = attention_forward_workspace,
      .attention_backward_workspace = attention_backward_workspace,
      .rope = rope,
      .norm_forward = norm_forward,
      .norm_backward = norm_backward,
      .norm_backward_workspace = norm_backward_workspace,
      .activation_forward = activation_forward,
      .activation_backward = activation_backward,
      .embedding_forward = embedding_forward,
      .embedding_backward = embedding_backward,
      .embedding_backward_workspace = embedding_backward_workspace,
      .gather_rows = gather_rows,
      .scatter_rows = scatter_rows,
      .dropout = dropout,
      .linear_cross_entropy = linear_cross_entropy,
      .linear_cross_entropy_workspace = linear_cross_entropy_workspace,
      .cross_entropy = cross_entropy,
      .global_norm = global_norm,
      .global_norm_workspace = global_norm_workspace,
      .adamw = adamw,
      .adamw_workspace = adamw_workspace,
      .add = add,
      .cast = cast,
      .find_nonfinite = find_nonfinite,
      .set_zero = set_zero,
      .copy = copy,
      .copy_to_device = copy_to_device,
      .copy_to_host = copy_to_host,
      .copy_to_host_async = copy_to_host_async,
      .synchronize = synchronize,
      .allocate = allocate,
      .release = release,
      .allocate_pinned = allocate_pinned,
      .release_pinned = release_pinned,
      .create_stream = create_stream,
      .destroy_stream = destroy_stream,
      .count_devices = count_devices,
      .device_info = device_info,
  };
  return operations;
}

}  // namespace engine::kernels::ENGINE_GPU
