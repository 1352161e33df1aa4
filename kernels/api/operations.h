// All operations of one device, as a table of functions. Each backend fills one:
// kernels/cpu/operations.cpp, and kernels/cuda/operations.cu for CUDA and for the software GPU. The
// meta device's functions do nothing (memory planning).
//
// Usage:  operations(stream).matmul(stream, {.a = x, .b = w, ...});
// Functions ending in _workspace give the bytes of scratch the call needs; they depend on shapes
// only (never on the thread count), so a dry run knows them.
#pragma once

#include "kernels/api/activation.h"
#include "kernels/api/attention.h"
#include "kernels/api/cross_entropy.h"
#include "kernels/api/device.h"
#include "kernels/api/dropout.h"
#include "kernels/api/elementwise.h"
#include "kernels/api/embedding.h"
#include "kernels/api/matmul.h"
#include "kernels/api/norm.h"
#include "kernels/api/optimizer.h"
#include "kernels/api/rope.h"
#include "kernels/api/score_loss.h"
#include "kernels/api/types.h"

namespace engine::kernels {

struct Operations {
  const char* name;

  void (*matmul)(Stream, const Matmul&);
  size_t (*matmul_workspace)(const Matmul&);  // pointers are not read
  void (*column_sum)(Stream, const ColumnSum&);

  void (*attention_forward)(Stream, const AttentionForward&);
  void (*attention_backward)(Stream, const AttentionBackward&);
  size_t (*attention_forward_workspace)(const AttentionShape&);
  size_t (*attention_backward_workspace)(const AttentionShape&);

  void (*rope)(Stream, const Rope&);

  void (*norm_forward)(Stream, const NormForward&);
  void (*norm_backward)(Stream, const NormBackward&);
  size_t (*norm_backward_workspace)(int64_t tokens, int64_t hidden);

  void (*activation_forward)(Stream, const ActivationForward&);
  void (*activation_backward)(Stream, const ActivationBackward&);

  void (*embedding_forward)(Stream, const EmbeddingForward&);
  void (*embedding_backward)(Stream, const EmbeddingBackward&);
  size_t (*embedding_backward_workspace)(int64_t tokens, int64_t hidden, int64_t rows,
                                         int64_t position_rows);
  void (*gather_rows)(Stream, const GatherRows&);
  void (*scatter_rows)(Stream, const GatherRows&);

  void (*dropout)(Stream, const Dropout&);

  void (*linear_cross_entropy)(Stream, const LinearCrossEntropy&);
  size_t (*linear_cross_entropy_workspace)(const LinearCrossEntropy&);  // pointers are not read
  void (*cross_entropy)(Stream, const CrossEntropy&);
  void (*score_loss)(Stream, const ScoreLoss&);

  // The table of segments that the next two read: made once, in device memory of that size.
  size_t (*optimizer_table_bytes)(int num_segments);
  void (*make_optimizer_table)(Stream, const OptimizerTable&);
  void (*flag_nonfinite)(Stream, const FlagNonfinite&);
  void (*global_norm)(Stream, const GlobalNorm&);
  size_t (*global_norm_workspace)(int64_t total_count, int num_segments);
  void (*adamw)(Stream, const AdamW&);

  void (*add)(Stream, const Add&);
  void (*cast)(Stream, const Cast&);
  void (*find_nonfinite)(Stream, const FindNonfinite&);

  void (*set_zero)(Stream, void* data, size_t bytes);
  void (*copy)(Stream, void* to, const void* from, size_t bytes);  // within the device
  // The host's memory may be changed when the call returns; pinned memory only after the next
  // synchronize() or copy_to_host().
  void (*copy_to_device)(Stream, void* to, const void* from, size_t bytes);
  void (*copy_to_host)(Stream, void* to, const void* from, size_t bytes);  // complete on return
  // To pinned memory: complete after the next synchronize() or copy_to_host().
  void (*copy_to_host_async)(Stream, void* to, const void* from, size_t bytes);
  void (*synchronize)(Stream);

  // Memory of the device; null when there is too little. Aligned for every operation.
  void* (*allocate)(Stream, size_t bytes);
  void (*release)(Stream, void* data);
  // Host memory that the device copies from and to by itself; null when there is too little.
  void* (*allocate_pinned)(Stream, size_t bytes);
  void (*release_pinned)(Stream, void* data);

  // A queue of its own for Stream::handle (null where operations run at once), and its end.
  void* (*create_stream)(Stream);
  void (*destroy_stream)(Stream);

  // A mark in the queue: wait_event returns when all that was queued before the last record_event
  // is done.
  void* (*create_event)(Stream);
  void (*record_event)(Stream, void* event);
  void (*wait_event)(Stream, void* event);
  void (*destroy_event)(Stream, void* event);

  // Operations between begin_recording and end_recording are not run but noted, with their
  // arguments as they are (see Scalar of types.h), and run by each replay, in order. What a stream
  // cannot note, and fails on with std::logic_error: anything the host waits for, and copies from
  // or to the host. Devices that cannot record at all fail with begin_recording. cancel_recording
  // ends one that failed; it never throws.
  bool can_record;
  void (*begin_recording)(Stream);
  void* (*end_recording)(Stream);
  void (*cancel_recording)(Stream);
  void (*replay)(Stream, void* recording);
  void (*release_recording)(Stream, void* recording);  // when its replays are done

  // Names what this thread queues until end_range, for profilers. Ranges nest. Cheap when nobody
  // listens; nothing at all on the CPU.
  void (*begin_range)(const char* name);
  void (*end_range)();

  // Devices of this type on this machine. Never throws: what is wrong is in the answer.
  DeviceCount (*count_devices)();
  DeviceInfo (*device_info)(Stream);
};

// The table of a stream's device; throws std::logic_error for a device that this build lacks.
const Operations& operations(const Stream& stream);
inline const Operations& operations(DeviceType device) {
  return operations(Stream{.device = device});
}

// Was this build made with the device?
bool has_device(DeviceType device);

}  // namespace engine::kernels
