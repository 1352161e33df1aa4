// Checkpoints of a training run: a directory that transformers loads, with the engine's own state
// beside the weights, so that a run continues bit for bit.
//
//   checkpoint-<step>/
//     config.json, model*.safetensors, tokenizer files     the model, Hugging Face layout
//     trainer_state.json                                   Hugging Face's history
//     engine_state/state.json                              step, data position, trackers, settings
//     engine_state/optimizer.safetensors                   master (when the model files are not
//                                                          fp32), m and v of every parameter
//   last -> checkpoint-<newest>                            symbolic link
//   best/                                                  the model only
//
// A checkpoint directory appears whole or not at all (weights/export.h).
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/optim/adamw.h"
#include "models/checkpoint_io.h"

namespace engine {

// What a model directory is made of besides its tensors.
struct ModelFiles {
  std::string config_json;
  std::string generation_config_json;                          // may be empty
  std::vector<std::pair<std::string, std::string>> tokenizer;  // name, content
  StoredTensors stored;
  FileDtype fallback_dtype = FileDtype::f32;
  std::optional<FileDtype> forced_dtype;
};

struct CheckpointContents {
  nlohmann::json state;            // engine_state/state.json
  std::string trainer_state_json;  // may be empty
};

// Bytes of the tensor files below a directory: of a checkpoint all but a few kB. The rest is left
// out because trainer_state.json has measured times in it, and so not always the same size.
uint64_t tensor_bytes(const std::filesystem::path& directory);

// Writes the model alone. Returns its tensor_bytes().
uint64_t save_model(const std::filesystem::path& directory, Runtime& runtime, Model& model,
                    const ModelFiles& files);

// Writes a whole checkpoint of `step` into output_dir and points `last` at it. Returns its
// tensor_bytes().
uint64_t save_checkpoint(const std::filesystem::path& output_dir, int64_t step, Runtime& runtime,
                         Model& model, const ModelFiles& files, const CheckpointContents& contents);

// Makes the link output_dir/last point at the directory `name` beside it.
void point_last_at(const std::filesystem::path& output_dir, const std::string& name);

// Removes leftovers of interrupted saves, and of the checkpoints up to `newest_step` all but the
// newest `keep` (0 = keeps all). Later ones are damaged ones that a resume passed over: they must
// not count, and the run will replace them.
void rotate_checkpoints(const std::filesystem::path& output_dir, int64_t keep, int64_t newest_step);

struct FoundCheckpoint {
  std::filesystem::path directory;
  int64_t step = 0;
  nlohmann::json state;
  std::vector<std::string> passed_over;  // newer ones that are damaged, with the reason
};
// The newest checkpoint whose files are whole (checksums are verified). Nothing when there is none;
// throws CKPT-DAMAGED when there are some and none is whole.
std::optional<FoundCheckpoint> find_checkpoint(const std::filesystem::path& output_dir);

// Fills weights, masters and moments. Throws CKPT-STATE when the files belong to another model.
void restore_checkpoint(const FoundCheckpoint& found, Runtime& runtime, Model& model);

}  // namespace engine
