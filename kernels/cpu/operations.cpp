// The table of the CPU.
#include "kernels/cpu/cpu.h"

namespace engine::kernels {
namespace {

constexpr Operations kCpu = {
    .name = "cpu",
    .matmul = cpu::matmul,
    .matmul_workspace = cpu::matmul_workspace,
    .column_sum = cpu::column_sum,
    .attention_forward = cpu::attention_forward,
    .attention_backward = cpu::attention_backward,
    .attention_forward_workspace = [](const AttentionShape&) -> size_t { return 0; },
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
    .score_loss = cpu::score_loss,
    .optimizer_table_bytes = [](int) -> size_t { return 0; },
    .make_optimizer_table = [](Stream, const OptimizerTable&) {},
    .flag_nonfinite = cpu::flag_nonfinite,
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
    .copy_to_host_async = cpu::copy,
    .synchronize = cpu::synchronize,
    .allocate = cpu::allocate,
    .release = cpu::release,
    .allocate_pinned = cpu::allocate,
    .release_pinned = cpu::release,
    .create_stream = [](Stream) -> void* { return nullptr; },
    .destroy_stream = [](Stream) {},
    .create_event = [](Stream) -> void* { return nullptr; },
    .record_event = [](Stream, void*) {},
    .wait_event = [](Stream, void*) {},
    .destroy_event = [](Stream, void*) {},
    .can_record = false,
    .begin_recording = [](Stream) { throw std::logic_error("the CPU records nothing"); },
    .end_recording = [](Stream) -> void* { return nullptr; },
    .cancel_recording = [](Stream) {},
    .replay = [](Stream, void*) {},
    .release_recording = [](Stream, void*) {},
    .begin_range = [](const char*) {},
    .end_range = [] {},
    .count_devices = [] { return DeviceCount{.count = 1}; },
    .device_info = [](Stream) { return DeviceInfo{.name = "CPU"}; },
};

}  // namespace

const Operations& cpu::table() {
  return kCpu;
}

}  // namespace engine::kernels
