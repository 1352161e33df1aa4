// Writing a Hugging Face checkpoint directory that transformers, and Checkpoint::open, load.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "weights/safetensors.h"

namespace engine {

// Decimal, as in transformers' save_pretrained(max_shard_size="5GB").
constexpr uint64_t kDefaultMaxShardBytes = 5'000'000'000;

struct ExportOptions {
  std::string config_json;             // written to config.json as it is
  std::string generation_config_json;  // to generation_config.json; nothing when empty
  // Every tokenizer file found in this directory is copied byte for byte; none when empty.
  std::filesystem::path tokenizer_directory;
  // A tensor larger than this has a shard of its own.
  uint64_t max_shard_bytes = kDefaultMaxShardBytes;
  // Extra files, name to content (the engine's own state, a model card).
  std::vector<std::pair<std::string, std::string>> extra_files;
  // Further safetensors files, path inside the directory to content (optimizer state).
  std::vector<std::pair<std::string, SafetensorsWriter>> extra_safetensors;
  // Replace the directory when it exists. Otherwise only an empty one may be there.
  bool overwrite = false;
  // CRC-32C of every tensor in the metadata: see SafetensorsWriter::Options.
  bool checksums = false;
};

// Writes config.json, generation_config.json, the tokenizer files and the tensors: one
// model.safetensors, or, above max_shard_bytes, model-00001-of-000NN.safetensors with
// model.safetensors.index.json. Tensors fill the shards in the order given. The directory appears
// only when it is complete and on disk; the free space is checked before anything is written.
//
// Throws EXPORT-EXISTS (exit code `usage`) when the directory is there and `overwrite` is not set,
// IO-FULL, IO-READONLY or IO-WRITE (exit code `io`); std::logic_error for a tensor given twice.
void export_checkpoint(const std::filesystem::path& directory, std::vector<TensorToWrite> tensors,
                       const ExportOptions& options);

// The names (not paths) of the tokenizer files in a directory, sorted; subdirectory files as
// "additional_chat_templates/x.jinja".
std::vector<std::string> tokenizer_files(const std::filesystem::path& directory);

}  // namespace engine
