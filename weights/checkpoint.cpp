#include "weights/checkpoint.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <system_error>

#include "engine/core/json.h"

namespace engine {

namespace {

namespace fs = std::filesystem;

Error checkpoint_error(std::string code, std::string what) {
  return Error(ExitCode::checkpoint, std::move(code), std::move(what));
}

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

// "a, b, c, ... (12 in all)"
std::string some_of(const std::vector<std::string>& names, size_t shown = 5) {
  std::string text = fmt::format(
      "{}", fmt::join(names.begin(), names.begin() + std::min(shown, names.size()), ", "));
  if (names.size() > shown) text += fmt::format(", ... ({} in all)", names.size());
  return text;
}

nlohmann::json parse_json_file(const fs::path& path, const std::string& text,
                               const std::string& code) {
  nlohmann::json value;
  try {
    value = parse_json<nlohmann::json>(text);
  } catch (const nlohmann::json::parse_error& error) {
    const auto line =
        std::count(text.begin(), text.begin() + std::min<size_t>(error.byte, text.size()), '\n');
    throw checkpoint_error(code, path.string() + " is not valid JSON")
        .where(fmt::format("line {}", line + 1))
        .found(error.what())
        .why(text.starts_with("version https://git-lfs")
                 ? "this is a git-lfs pointer: run `git lfs pull` to fetch the real file"
                 : "an interrupted download or an editing mistake");
  }
  if (!value.is_object()) {
    throw checkpoint_error(code, path.string() + " does not hold a JSON object")
        .found(value.type_name());
  }
  return value;
}

// ---- the Hugging Face cache ---------------------------------------------------------------------

std::optional<std::string> environment(const char* name) {
  const char* value = std::getenv(name);
  return value && *value ? std::optional<std::string>(value) : std::nullopt;
}

fs::path hub_cache() {
  if (const auto cache = environment("HF_HUB_CACHE")) return *cache;
  if (const auto home = environment("HF_HOME")) return fs::path(*home) / "hub";
  if (const auto cache = environment("XDG_CACHE_HOME")) {
    return fs::path(*cache) / "huggingface" / "hub";
  }
  return fs::path(environment("HOME").value_or(".")) / ".cache" / "huggingface" / "hub";
}

// "name" or "org/name", of the characters that the hub allows.
bool looks_like_id(std::string_view id) {
  if (id.empty() || std::count(id.begin(), id.end(), '/') > 1) return false;
  if (id.front() == '/' || id.back() == '/' || id.front() == '.' || id.front() == '~') return false;
  if (id.find("..") != std::string_view::npos || id.find("/.") != std::string_view::npos) {
    return false;
  }
  return std::all_of(id.begin(), id.end(), [](unsigned char c) {
    return std::isalnum(c) || c == '-' || c == '_' || c == '.' || c == '/';
  });
}

// The snapshot of a downloaded repository, or "" when there is none.
fs::path find_snapshot(const std::string& id, const std::string& revision) {
  std::string folder = "models--" + id;
  if (const size_t slash = folder.find('/'); slash != std::string::npos) {
    folder.replace(slash, 1, "--");
  }
  const fs::path repository = hub_cache() / folder;
  std::string commit = revision;
  if (const fs::path reference = repository / "refs" / revision; is_there(reference)) {
    commit = read_text_file(reference, ExitCode::checkpoint);
    commit.erase(commit.find_last_not_of(" \t\r\n") + 1);
  }
  const fs::path snapshot = repository / "snapshots" / commit;
  std::error_code ignored;
  return !commit.empty() && fs::is_directory(snapshot, ignored) ? snapshot : fs::path();
}

}  // namespace

fs::path resolve_checkpoint_directory(const std::string& directory_or_id) {
  std::error_code ignored;
  if (fs::is_directory(directory_or_id, ignored)) return directory_or_id;
  if (is_there(directory_or_id)) {
    throw checkpoint_error("CKPT-DIR", directory_or_id + " is a file, not a checkpoint directory")
        .fix("name the directory that holds config.json and the weights");
  }
  const size_t at = directory_or_id.find('@');
  const std::string id = directory_or_id.substr(0, at);
  const std::string revision = at == std::string::npos ? "main" : directory_or_id.substr(at + 1);
  if (!looks_like_id(id) || revision.find("..") != std::string::npos) {
    throw checkpoint_error("CKPT-DIR", "there is no directory " + directory_or_id);
  }
  const fs::path snapshot = find_snapshot(id, revision);
  if (!snapshot.empty()) return snapshot;
  throw checkpoint_error("CKPT-DIR", fmt::format("\"{}\" is neither a directory nor a model in the "
                                                 "Hugging Face cache",
                                                 directory_or_id))
      .where(fmt::format("cache {}, revision {}", hub_cache().string(), revision))
      .fix("download it first (hf download " + id + "), or name a directory");
}

Checkpoint::Checkpoint() = default;
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;
Checkpoint& Checkpoint::operator=(Checkpoint&&) noexcept = default;
Checkpoint::~Checkpoint() = default;

Checkpoint Checkpoint::open(const std::string& directory_or_id) {
  Checkpoint checkpoint;
  checkpoint.directory_ = resolve_checkpoint_directory(directory_or_id);
  const fs::path config_path = checkpoint.directory_ / "config.json";
  if (!is_there(config_path)) {
    Error error = checkpoint_error("CKPT-CONFIG", checkpoint.directory_.string() +
                                                      " has no config.json, so it is unknown "
                                                      "which model its weights belong to");
    if (is_there(checkpoint.directory_ / "adapter_config.json")) {
      error.why("this is an adapter (adapter_config.json), not a whole model")
          .fix("name the base model's directory");
    } else if (is_there(checkpoint.directory_ / "params.json")) {
      error.why("this is Meta's original format (params.json)")
          .fix("use the Hugging Face version of the model");
    } else {
      error.fix("copy config.json from the model's page beside the weights");
    }
    throw error;
  }
  checkpoint.config_text_ = read_text_file(config_path, ExitCode::checkpoint);
  checkpoint.config_ = std::make_unique<nlohmann::json>(
      parse_json_file(config_path, checkpoint.config_text_, "CKPT-CONFIG"));
  checkpoint.open_weights();
  return checkpoint;
}

void Checkpoint::open_weights() {
  const fs::path single = directory_ / "model.safetensors";
  const fs::path index = directory_ / "model.safetensors.index.json";
  if (is_there(single)) {
    files_.push_back(SafetensorsFile::open(single));
    for (const TensorEntry& entry : files_[0].tensors()) {
      index_.emplace(entry.name, Location{0, &entry});
    }
  } else if (is_there(index)) {
    open_shards(index);
  } else {
    Error error = checkpoint_error("CKPT-NO-WEIGHTS", directory_.string() + " holds no weights");
    error.expected("model.safetensors, or model.safetensors.index.json with its shards");
    std::vector<std::string> others;
    bool pickled = false, named_otherwise = false;
    std::error_code ignored;
    for (const auto& item : fs::directory_iterator(directory_, ignored)) {
      const std::string name = item.path().filename().string();
      const std::string extension = item.path().extension().string();
      const bool is_pickle = extension == ".bin" || extension == ".pth" || extension == ".pt";
      pickled |= is_pickle;
      named_otherwise |= extension == ".safetensors";
      if (is_pickle || extension == ".safetensors" || extension == ".gguf" || extension == ".h5" ||
          extension == ".msgpack") {
        others.push_back(name);
      }
    }
    std::sort(others.begin(), others.end());
    if (!others.empty()) error.found(some_of(others));
    if (pickled) {
      error.why("a Python pickle can run any code when it is loaded, so it is never opened here")
          .fix(
              "convert it offline once: python -c \"from transformers import AutoModel; "
              "AutoModel.from_pretrained('DIR').save_pretrained('NEW')\" (use the AutoModelFor... "
              "class of your task)");
    } else if (named_otherwise) {
      error.why("shards need their index, a single file the usual name")
          .fix("download model.safetensors.index.json, or rename the file to model.safetensors");
    } else {
      error.why("an incomplete download").fix("download the weights as well");
    }
    throw error;
  }
  names_.reserve(index_.size());
  for (const auto& [name, location] : index_) names_.emplace_back(name);
  std::sort(names_.begin(), names_.end());
}

void Checkpoint::open_shards(const fs::path& index_path) {
  const nlohmann::json index =
      parse_json_file(index_path, read_text_file(index_path, ExitCode::checkpoint), "CKPT-INDEX");
  const auto weight_map = index.find("weight_map");
  if (weight_map == index.end() || !weight_map->is_object() || weight_map->empty()) {
    throw checkpoint_error("CKPT-INDEX", index_path.string() + " has no usable weight_map")
        .expected("\"weight_map\": {tensor name: file name, ...}");
  }

  // Which tensors are promised in which file, both in order.
  std::map<std::string, std::vector<std::string>> promised;
  for (const auto& [tensor, file] : weight_map->items()) {
    if (!file.is_string()) {
      throw checkpoint_error("CKPT-INDEX", index_path.string() + ": a file name is not a string")
          .where("tensor " + tensor)
          .found(file.type_name());
    }
    promised[file.get<std::string>()].push_back(tensor);
  }
  std::vector<std::string> absent_files;
  for (const auto& [name, tensors] : promised) {
    const fs::path relative(name);
    const bool escapes = name.empty() || relative.is_absolute() ||
                         name.find('\0') != std::string::npos ||
                         std::any_of(relative.begin(), relative.end(),
                                     [](const auto& part) { return part == ".."; });
    if (escapes) {
      throw checkpoint_error("CKPT-PATH",
                             index_path.string() + " names a file outside its directory")
          .where("tensor " + tensors.front())
          .found("\"" + name + "\"")
          .why("a damaged or hostile index");
    }
    if (!is_there(directory_ / relative)) absent_files.push_back(name);
  }
  if (!absent_files.empty()) {
    throw checkpoint_error("CKPT-SHARD-MISSING", fmt::format("{} of {} weight files are missing",
                                                             absent_files.size(), promised.size()))
        .where(directory_.string())
        .with("missing", some_of(absent_files, 20))
        .why("an incomplete download")
        .fix("download the missing files");
  }

  std::vector<std::string> absent_tensors;
  for (const auto& [name, tensors] : promised) {
    files_.push_back(SafetensorsFile::open(directory_ / name));
    for (const std::string& tensor : tensors) {
      const TensorEntry* entry = files_.back().find(tensor);
      if (entry) {
        index_.emplace(entry->name, Location{files_.size() - 1, entry});
      } else {
        absent_tensors.push_back(tensor + " (in " + name + ")");
      }
    }
  }
  if (!absent_tensors.empty()) {
    throw checkpoint_error(
        "CKPT-INDEX",
        fmt::format("{} tensors are not in the files that the index names", absent_tensors.size()))
        .where(index_path.string())
        .with("absent", some_of(absent_tensors))
        .why("index and shards come from different versions of the model")
        .fix("download the index and all shards again");
  }
  for (size_t file = 0; file < files_.size(); ++file) {
    for (const TensorEntry& entry : files_[file].tensors()) {
      const auto [found, is_new] = index_.emplace(entry.name, Location{file, &entry});
      if (is_new) {
        warnings_.push_back(fmt::format("tensor {} of {} is not in the index", entry.name,
                                        files_[file].path().filename().string()));
      } else if (found->second.file != file) {
        warnings_.push_back(fmt::format("tensor {} is in {} and in {}; the first is used",
                                        entry.name,
                                        files_[found->second.file].path().filename().string(),
                                        files_[file].path().filename().string()));
      }
    }
  }
}

const TensorEntry* Checkpoint::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : found->second.entry;
}

uint64_t Checkpoint::total_bytes() const {
  uint64_t bytes = 0;
  for (const auto& [name, location] : index_) bytes += location.entry->bytes;
  return bytes;
}

std::string Checkpoint::file_of(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? "" : files_[found->second.file].path().filename().string();
}

}  // namespace engine
