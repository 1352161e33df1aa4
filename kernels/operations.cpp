// operations(): the devices of this build, and the meta device made from them.
#include "kernels/api/operations.h"

#include <algorithm>
#include <array>

#include "kernels/api/backends.h"
#include "kernels/api/matmul_steps.h"
#include "kernels/cpu/cpu.h"

namespace engine::kernels {

// kernels/cuda/operations.cu, compiled for each.
namespace simt {
const Operations& table();
void attention_forward_mma(Stream stream, const AttentionForward& arguments);
}  // namespace simt
#if ENGINE_HAS_CUDA
namespace cuda {
const Operations& table();
void attention_forward_mma(Stream stream, const AttentionForward& arguments);
#if ENGINE_HAS_CUBLAS
void matmul_cublas(Stream stream, const Matmul& arguments);  // kernels/cuda/rivals
void matmul_auto(Stream stream, const Matmul& arguments);
#endif
#if ENGINE_HAS_CUDNN
void attention_forward_cudnn(Stream stream, const AttentionForward& arguments);
void attention_forward_auto(Stream stream, const AttentionForward& arguments);
void attention_backward_cudnn(Stream stream, const AttentionBackward& arguments);
void attention_backward_auto(Stream stream, const AttentionBackward& arguments);
#endif
}  // namespace cuda
#endif

namespace {

template <typename Arguments>
void nothing(Stream, const Arguments&) {}

// Computes nothing; workspaces are those of the device that is planned for.
Operations plan(const Operations& device) {
  return {
      .name = "meta",
      .matmul = nothing<Matmul>,
      .matmul_workspace = device.matmul_workspace,
      .column_sum = nothing<ColumnSum>,
      .attention_forward = nothing<AttentionForward>,
      .attention_backward = nothing<AttentionBackward>,
      .attention_forward_workspace = device.attention_forward_workspace,
      .attention_backward_workspace = device.attention_backward_workspace,
      .rope = nothing<Rope>,
      .norm_forward = nothing<NormForward>,
      .norm_backward = nothing<NormBackward>,
      .norm_backward_workspace = device.norm_backward_workspace,
      .activation_forward = nothing<ActivationForward>,
      .activation_backward = nothing<ActivationBackward>,
      .embedding_forward = nothing<EmbeddingForward>,
      .embedding_backward = nothing<EmbeddingBackward>,
      .embedding_backward_workspace = device.embedding_backward_workspace,
      .gather_rows = nothing<GatherRows>,
      .scatter_rows = nothing<GatherRows>,
      .dropout = nothing<Dropout>,
      .linear_cross_entropy = nothing<LinearCrossEntropy>,
      .linear_cross_entropy_workspace = device.linear_cross_entropy_workspace,
      .cross_entropy = nothing<CrossEntropy>,
      .score_loss = nothing<ScoreLoss>,
      .optimizer_table_bytes = device.optimizer_table_bytes,
      .make_optimizer_table = nothing<OptimizerTable>,
      .flag_nonfinite = nothing<FlagNonfinite>,
      .global_norm = nothing<GlobalNorm>,
      .global_norm_workspace = device.global_norm_workspace,
      .adamw = nothing<AdamW>,
      .add = nothing<Add>,
      .cast = nothing<Cast>,
      .find_nonfinite = [](Stream, const FindNonfinite& arguments) { *arguments.index = -1; },
      .set_zero = [](Stream, void*, size_t) {},
      .copy = [](Stream, void*, const void*, size_t) {},
      .copy_to_device = [](Stream, void*, const void*, size_t) {},
      .copy_to_host = [](Stream, void*, const void*, size_t) {},
      .copy_to_host_async = [](Stream, void*, const void*, size_t) {},
      .synchronize = [](Stream) {},
      .allocate = [](Stream, size_t) -> void* { return nullptr; },
      .release = [](Stream, void*) {},
      .allocate_pinned = [](Stream, size_t) -> void* { return nullptr; },
      .release_pinned = [](Stream, void*) {},
      .create_stream = [](Stream) -> void* { return nullptr; },
      .destroy_stream = [](Stream) {},
      .create_event = [](Stream) -> void* { return nullptr; },
      .record_event = [](Stream, void*) {},
      .wait_event = [](Stream, void*) {},
      .destroy_event = [](Stream, void*) {},
      .can_record = device.can_record,
      .begin_recording = [](Stream) {},
      .end_recording = [](Stream) -> void* { return nullptr; },
      .cancel_recording = [](Stream) {},
      .replay = [](Stream, void*) {},
      .release_recording = [](Stream, void*) {},
      .begin_range = [](const char*) {},
      .end_range = [] {},
      .count_devices = [] { return DeviceCount{.count = 1}; },
      .device_info = [](Stream) { return DeviceInfo{.name = "no device"}; },
  };
}

// Our kernels alone.
const Operations& simt_table() {
  static const Operations table = [] {
    Operations all = simt::table();
    all.attention_forward = [](Stream stream, const AttentionForward& arguments) {
      const bool mma = selected_attention() == AttentionBackend::mma;
      (mma ? simt::attention_forward_mma : simt::table().attention_forward)(stream, arguments);
    };
    return all;
  }();
  return table;
}

#if ENGINE_HAS_CUDA
void our_attention_forward(Stream stream, const AttentionForward& arguments) {
  const bool mma = selected_attention() == AttentionBackend::mma;
  (mma ? cuda::attention_forward_mma : cuda::table().attention_forward)(stream, arguments);
}

#if ENGINE_HAS_CUDNN
template <typename Arguments>
using Attention = void (*)(Stream, const Arguments&);

template <typename Arguments, Attention<Arguments> cudnn, Attention<Arguments> automatic>
void selected(Stream stream, const Arguments& arguments, Attention<Arguments> ours) {
  switch (selected_attention()) {
    case AttentionBackend::engine:
    case AttentionBackend::mma:
      return ours(stream, arguments);
    case AttentionBackend::cudnn:
      return cudnn(stream, arguments);
    case AttentionBackend::automatic:
      return automatic(stream, arguments);
  }
}
#endif

// Our own table; products and attention go to the library that was selected.
const Operations& cuda_table() {
  static const Operations table = [] {
    Operations all = cuda::table();
    all.attention_forward = our_attention_forward;
#if ENGINE_HAS_CUBLAS
    all.matmul = [](Stream stream, const Matmul& arguments) {
      switch (selected_matmul()) {
        case MatmulBackend::engine:
          return cuda::table().matmul(stream, arguments);
        case MatmulBackend::cublas:
          return cuda::matmul_cublas(stream, arguments);
        case MatmulBackend::automatic:
          return cuda::matmul_auto(stream, arguments);
      }
    };
    // The library has no epilogues like ours.
    all.matmul_workspace = [](const Matmul& arguments) {
      const size_t ours = cuda::table().matmul_workspace(arguments);
      if (selected_matmul() == MatmulBackend::engine) return ours;
      return std::max(ours, matmul_steps_workspace(arguments));
    };
#endif
#if ENGINE_HAS_CUDNN
    all.attention_forward = [](Stream stream, const AttentionForward& arguments) {
      selected<AttentionForward, cuda::attention_forward_cudnn, cuda::attention_forward_auto>(
          stream, arguments, our_attention_forward);
    };
    all.attention_backward = [](Stream stream, const AttentionBackward& arguments) {
      selected<AttentionBackward, cuda::attention_backward_cudnn, cuda::attention_backward_auto>(
          stream, arguments, cuda::table().attention_backward);
    };
#endif
    return all;
  }();
  return table;
}
#endif

const Operations* table_of(DeviceType device) {
  switch (device) {
    case DeviceType::cpu:
      return &cpu::table();
    case DeviceType::simt:
      return &simt_table();
    case DeviceType::cuda:
#if ENGINE_HAS_CUDA
      return &cuda_table();
#endif
    case DeviceType::meta:
      break;
  }
  return nullptr;
}

}  // namespace

bool has_device(DeviceType device) {
  return device == DeviceType::meta || table_of(device) != nullptr;
}

const Operations& operations(const Stream& stream) {
  const bool planning = stream.device == DeviceType::meta;
  const DeviceType device = planning ? stream.planned : stream.device;
  const Operations* const table = table_of(device);
  if (!table) throw std::logic_error("operations: this build has no such device");
  if (!planning) return *table;
  static const std::array<Operations, 3> plans = [] {
    std::array<Operations, 3> all{};
    for (DeviceType real : {DeviceType::cpu, DeviceType::cuda, DeviceType::simt}) {
      if (const Operations* const of = table_of(real)) all[static_cast<size_t>(real)] = plan(*of);
    }
    return all;
  }();
  return plans[static_cast<size_t>(device)];
}

}  // namespace engine::kernels
