#include "weights/export.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <system_error>

namespace engine {

namespace {

namespace fs = std::filesystem;

// Everything that a Hugging Face tokenizer, slow or fast, may be loaded from.
constexpr const char* kTokenizerFiles[] = {
    "added_tokens.json",       "chat_template.jinja",     "chat_template.json", "merges.txt",
    "sentencepiece.bpe.model", "special_tokens_map.json", "spiece.model",       "tokenizer.json",
    "tokenizer.model",         "tokenizer_config.json",   "vocab.json",         "vocab.txt",
};
constexpr const char* kTemplateDirectory = "additional_chat_templates";

// [begin, end) of every shard: tensors stay in order, and a shard is closed when the next tensor
// would make it too large.
std::vector<std::pair<size_t, size_t>> plan_shards(const std::vector<TensorToWrite>& tensors,
                                                   uint64_t max_bytes) {
  std::vector<std::pair<size_t, size_t>> shards;
  size_t begin = 0;
  uint64_t bytes = 0;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const uint64_t size = tensors[i].bytes();
    if (i > begin && bytes + size > max_bytes) {
      shards.emplace_back(begin, i);
      begin = i;
      bytes = 0;
    }
    bytes += size;
  }
  shards.emplace_back(begin, tensors.size());
  return shards;
}

void refuse_existing(const fs::path& directory) {
  std::error_code ignored;
  const fs::file_status status = fs::status(directory, ignored);
  if (!fs::exists(status)) return;
  if (fs::is_directory(status) && fs::is_empty(directory, ignored)) return;
  throw Error(ExitCode::usage, "EXPORT-EXISTS", directory.string() + " exists already")
      .why("writing there would replace everything in it")
      .fix("choose another directory, delete it, or ask to overwrite it");
}

}  // namespace

std::vector<std::string> tokenizer_files(const fs::path& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (const char* name : kTokenizerFiles) {
    if (fs::is_regular_file(directory / name, error)) names.push_back(name);
  }
  for (const auto& entry : fs::directory_iterator(directory / kTemplateDirectory, error)) {
    if (entry.path().extension() == ".jinja" && entry.is_regular_file(error)) {
      names.push_back(std::string(kTemplateDirectory) + "/" + entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

void export_checkpoint(const fs::path& directory, std::vector<TensorToWrite> tensors,
                       const ExportOptions& options) {
  if (!options.overwrite) refuse_existing(directory);

  // The small files: path inside the directory, content.
  std::vector<std::pair<std::string, std::string>> files = options.extra_files;
  files.emplace_back("config.json", options.config_json);
  if (!options.generation_config_json.empty()) {
    files.emplace_back("generation_config.json", options.generation_config_json);
  }
  if (!options.tokenizer_directory.empty()) {
    for (const std::string& name : tokenizer_files(options.tokenizer_directory)) {
      files.emplace_back(name,
                         read_text_file(options.tokenizer_directory / name, ExitCode::checkpoint));
    }
  }

  // The tensors.
  const auto shards = plan_shards(tensors, options.max_shard_bytes);
  std::set<std::string_view> seen;
  uint64_t total_bytes = 0, total_elements = 0;
  for (const TensorToWrite& tensor : tensors) {
    if (!seen.insert(tensor.name).second) {
      throw std::logic_error("export_checkpoint: tensor given twice: " + tensor.name);
    }
    total_bytes += tensor.bytes();
    total_elements += tensor.bytes() * 8 / static_cast<uint64_t>(bits_of(tensor.dtype));
  }
  nlohmann::json weight_map = nlohmann::json::object();
  std::vector<std::pair<std::string, SafetensorsWriter>> writers;
  SafetensorsWriter::Options writer_options;
  writer_options.checksums = options.checksums;
  for (size_t shard = 0; shard < shards.size(); ++shard) {
    const std::string name = shards.size() == 1 ? "model.safetensors"
                                                : fmt::format("model-{:05}-of-{:05}.safetensors",
                                                              shard + 1, shards.size());
    const auto first = tensors.begin() + static_cast<ptrdiff_t>(shards[shard].first);
    const auto last = tensors.begin() + static_cast<ptrdiff_t>(shards[shard].second);
    for (auto tensor = first; tensor != last; ++tensor) weight_map[tensor->name] = name;
    writers.emplace_back(name, SafetensorsWriter({first, last}, writer_options));
  }
  if (shards.size() > 1) {
    nlohmann::json index;
    index["metadata"] = {{"total_parameters", total_elements}, {"total_size", total_bytes}};
    index["weight_map"] = std::move(weight_map);
    files.emplace_back("model.safetensors.index.json", index.dump(2) + "\n");
  }

  for (const auto& extra : options.extra_safetensors) writers.push_back(extra);

  uint64_t needed = 0;
  for (const auto& [name, content] : files) needed += content.size();
  for (const auto& [name, writer] : writers) needed += writer.file_bytes();
  require_free_disk(directory, needed);

  AtomicDirectory output(directory);
  const auto make_parent = [](const fs::path& path) {
    std::error_code error;
    fs::create_directories(path.parent_path(), error);
    if (error) throw write_error(path, error.value());
  };
  for (const auto& [name, content] : files) {
    const fs::path path = output.path() / name;
    make_parent(path);
    FileWriter writer(path, content.size());
    writer.write(content);
    writer.close();
  }
  for (const auto& [name, writer] : writers) {
    make_parent(output.path() / name);
    writer.write(output.path() / name);
  }
  output.commit();
}

}  // namespace engine
