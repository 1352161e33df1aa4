#include "engine/train/run_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "engine/core/error.h"
#include "engine/core/file_io.h"
#include "weights/export.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrefix = "checkpoint-";
constexpr const char* kStateFile = "engine_state/state.json";
constexpr const char* kOptimizerFile = "engine_state/optimizer.safetensors";

// Whole parameters, in the engine's own layout: this file is for the engine alone.
TensorToWrite state_tensor(Runtime& runtime, std::string name, const Tensor& tensor) {
  return {.name = std::move(name),
          .dtype = FileDtype::f32,
          .shape = tensor.shape().vector(),
          .source = [&runtime, tensor](const TensorSink& sink) {
            constexpr int64_t kChunk = int64_t{1} << 20;
            for (int64_t begin = 0; begin < tensor.count(); begin += kChunk) {
              const int64_t n = std::min(kChunk, tensor.count() - begin);
              const std::vector<float> values = runtime.download(tensor.slice(begin, {n}));
              sink(std::as_bytes(std::span(values)));
            }
          }};
}

// The parameter that is trained: its bf16 value where it has no master.
const Tensor& trained(const Parameter& parameter) {
  return parameter.master ? parameter.master : parameter.value;
}

// The model files hold it exactly in fp32, and a bf16 value also in bf16.
bool stored_exactly(const Parameter& parameter, const ModelFiles& files) {
  return std::all_of(
      parameter.parts.begin(), parameter.parts.end(), [&](const ParameterPart& part) {
        const auto known = files.stored.find(part.name);
        const FileDtype dtype = files.forced_dtype            ? *files.forced_dtype
                                : known != files.stored.end() ? known->second.dtype
                                                              : files.fallback_dtype;
        return dtype == FileDtype::f32 ||
               (dtype == FileDtype::bf16 && trained(parameter).dtype() == DType::bf16);
      });
}

ExportOptions export_options(const ModelFiles& files) {
  return {.config_json = files.config_json,
          .generation_config_json = files.generation_config_json,
          .tokenizer_directory = {},
          .extra_files = files.tokenizer,
          .overwrite = true,
          .checksums = true};
}

// Step and path of every checkpoint, newest first.
std::vector<std::pair<int64_t, fs::path>> list_checkpoints(const fs::path& output_dir) {
  std::vector<std::pair<int64_t, fs::path>> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(output_dir, error)) {
    const std::string name = entry.path().filename();
    if (!name.starts_with(kPrefix)) continue;
    const std::string number = name.substr(std::string(kPrefix).size());
    int64_t step = 0;
    const auto [end, failure] = std::from_chars(number.data(), number.data() + number.size(), step);
    if (failure == std::errc() && end == number.data() + number.size()) {
      found.emplace_back(step, entry.path());
    }
  }
  std::sort(found.rbegin(), found.rend());
  return found;
}

}  // namespace

uint64_t tensor_bytes(const fs::path& directory) {
  uint64_t total = 0;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (entry.path().extension() == ".safetensors") total += entry.file_size();
  }
  return total;
}

// A link is replaced in one step: made beside, then renamed over the old one.
void point_last_at(const fs::path& output_dir, const std::string& name) {
  const fs::path temporary = output_dir / ".last.tmp";
  std::error_code error;
  fs::remove(temporary, error);
  fs::create_directory_symlink(name, temporary, error);
  if (!error) fs::rename(temporary, output_dir / "last", error);
  if (error) throw write_error(output_dir / "last", error.value());
}

uint64_t save_model(const fs::path& directory, Runtime& runtime, Model& model,
                    const ModelFiles& files) {
  export_checkpoint(
      directory,
      tensors_to_write(runtime, model, files.stored, files.fallback_dtype, files.forced_dtype),
      export_options(files));
  return tensor_bytes(directory);
}

uint64_t save_checkpoint(const fs::path& output_dir, int64_t step, Runtime& runtime, Model& model,
                         const ModelFiles& files, const CheckpointContents& contents) {
  ExportOptions options = export_options(files);
  options.extra_files.emplace_back(kStateFile, contents.state.dump(1) + "\n");
  if (!contents.trainer_state_json.empty()) {
    options.extra_files.emplace_back("trainer_state.json", contents.trainer_state_json);
  }
  std::vector<TensorToWrite> state;
  for (const auto& p : model.parameters()) {
    if (!p->trainable) continue;
    if (!stored_exactly(*p, files)) {
      state.push_back(state_tensor(runtime, "master/" + p->name(), trained(*p)));
    }
    state.push_back(state_tensor(runtime, "m/" + p->name(), p->m));
    state.push_back(state_tensor(runtime, "v/" + p->name(), p->v));
  }
  SafetensorsWriter::Options writer_options;
  writer_options.checksums = true;
  options.extra_safetensors.emplace_back(kOptimizerFile,
                                         SafetensorsWriter(std::move(state), writer_options));
  const std::string name = kPrefix + std::to_string(step);
  export_checkpoint(
      output_dir / name,
      tensors_to_write(runtime, model, files.stored, files.fallback_dtype, files.forced_dtype),
      options);
  point_last_at(output_dir, name);
  return tensor_bytes(output_dir / name);
}

void rotate_checkpoints(const fs::path& output_dir, int64_t keep, int64_t newest_step) {
  std::error_code error;
  // What a killed process was writing: every name of ours, with the endings of file_io.h.
  for (const auto& entry : fs::directory_iterator(output_dir, error)) {
    const std::string name = entry.path().filename();
    const size_t end = std::min(name.find(".tmp-"), name.find(".old-"));
    if (end == std::string::npos) continue;
    const std::string target = name.substr(0, end);
    if (target.starts_with(kPrefix) || target == "best" || target == "metrics.jsonl" ||
        target == "config.resolved.yaml" || target == "trainer_state.json") {
      fs::remove_all(entry.path(), error);
    }
  }
  if (keep <= 0) return;
  auto checkpoints = list_checkpoints(output_dir);
  std::erase_if(checkpoints, [&](const auto& entry) { return entry.first > newest_step; });
  for (size_t i = static_cast<size_t>(keep); i < checkpoints.size(); ++i) {
    fs::remove_all(checkpoints[i].second, error);
  }
}

std::optional<FoundCheckpoint> find_checkpoint(const fs::path& output_dir) {
  FoundCheckpoint found;
  for (const auto& [step, directory] : list_checkpoints(output_dir)) {
    try {
      const Checkpoint model = Checkpoint::open(directory);
      for (const SafetensorsFile& file : model.files()) file.verify_checksums();
      SafetensorsFile::open(directory / kOptimizerFile).verify_checksums();
      found.state =
          nlohmann::json::parse(read_text_file(directory / kStateFile, ExitCode::checkpoint));
      if (found.state.at("step").get<int64_t>() != step) {
        throw Error(ExitCode::checkpoint, "CKPT-STATE", "state.json is of another step");
      }
    } catch (const Error& error) {
      found.passed_over.push_back(directory.string() + ": " + error.message());
      continue;
    } catch (const nlohmann::json::exception& error) {
      found.passed_over.push_back(directory.string() + ": " + kStateFile + ": " + error.what());
      continue;
    }
    found.directory = directory;
    found.step = step;
    return found;
  }
  if (found.passed_over.empty()) return std::nullopt;
  Error error(ExitCode::checkpoint, "CKPT-DAMAGED",
              fmt::format("none of the {} checkpoints in {} is whole", found.passed_over.size(),
                          output_dir.string()));
  for (const std::string& text : found.passed_over) error.found(text);
  throw error.why("the files were changed or cut off after they were written: disk or copy errors")
      .fix("train anew into another train.output_dir, or restore the directory from a backup");
}

void restore_checkpoint(const FoundCheckpoint& found, Runtime& runtime, Model& model) {
  load_weights(runtime, model, Checkpoint::open(found.directory));
  const SafetensorsFile state = SafetensorsFile::open(found.directory / kOptimizerFile);
  const auto restore = [&](const std::string& name, const Tensor& tensor, bool required) {
    const TensorEntry* entry = state.find(name);
    if (!entry && !required) return false;
    if (!entry || entry->dtype != FileDtype::f32 || entry->shape != tensor.shape().vector()) {
      throw Error(ExitCode::checkpoint, "CKPT-STATE",
                  "the optimizer state does not belong to this model: " + name)
          .where(state.path())
          .expected("F32 " + tensor.shape().str())
          .found(entry ? fmt::format("{} {}", name_of(entry->dtype), format_shape(entry->shape))
                       : "no such tensor")
          .fix("resume with the config the run was started with");
    }
    std::vector<float> values(static_cast<size_t>(tensor.count()));
    to_float32(entry->dtype, entry->data, values.size(), values.data());
    if (tensor.dtype() == DType::f32) {
      runtime.upload(tensor, values.data());
    } else {
      std::vector<kernels::BFloat16> rounded(values.begin(), values.end());
      runtime.upload(tensor, rounded.data());
    }
    return true;
  };
  for (const auto& p : model.parameters()) {
    if (!p->trainable) continue;
    if (restore("master/" + p->name(), trained(*p), false) && p->master &&
        p->value.dtype() == DType::bf16) {
      runtime.ops().cast(runtime.stream(), {.x = p->master.data(),
                                            .out = p->value.data(),
                                            .count = p->count(),
                                            .from = DType::f32,
                                            .to = DType::bf16});
    }
    restore("m/" + p->name(), p->m, true);
    restore("v/" + p->name(), p->v, true);
  }
}

}  // namespace engine
