// Changing the element type of a checkpoint on its way to another directory.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "weights/checkpoint.h"
#include "weights/safetensors.h"

namespace engine {

// "fp32", "bf16", "fp16" and the longer spellings float32, bfloat16, float16; nothing for others.
std::optional<FileDtype> parse_float_dtype(std::string_view name);

// All tensors of a checkpoint, sorted by name, as they are or with every floating-point tensor in
// `dtype`. Integer and boolean tensors stay. The checkpoint must outlive the result. Throws
// CKPT-DTYPE for 4-, 6- and 8-bit floats when a dtype is asked for: they mean nothing without
// their scales.
std::vector<TensorToWrite> checkpoint_tensors(const Checkpoint& checkpoint,
                                              std::optional<FileDtype> dtype);
// A tensor of type f32 in another floating-point type.
TensorToWrite in_dtype(TensorToWrite tensor, FileDtype dtype);

// The config.json with its "dtype" (or "torch_dtype") set; other keys keep value and order.
std::string config_with_dtype(const std::string& config_json, FileDtype dtype);

// "1GB", "500MB", "2GiB" or plain bytes, as in transformers' max_shard_size. Nothing when it is
// neither or 0.
std::optional<uint64_t> parse_shard_size(std::string_view text);

}  // namespace engine
