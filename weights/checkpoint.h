// A Hugging Face checkpoint directory, opened for reading.
//
//   config.json                         parsed and kept
//   model.safetensors                   or, when there is none,
//   model.safetensors.index.json        {"weight_map": {tensor: file}} with its shards
//
// Errors have exit code `checkpoint`: CKPT-DIR, CKPT-CONFIG, CKPT-NO-WEIGHTS, CKPT-INDEX,
// CKPT-SHARD-MISSING, CKPT-PATH, CKPT-SHAPE, CKPT-DTYPE, CKPT-MISSING, and the ST- codes of
// weights/safetensors.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "weights/safetensors.h"

namespace engine {

class Checkpoint {
 public:
  // `directory_or_id` is a directory, or "org/name" (also "name" and "org/name@revision") that was
  // downloaded before: the Hugging Face cache is looked up, nothing is fetched. A directory wins.
  static Checkpoint open(const std::string& directory_or_id);
  Checkpoint(Checkpoint&&) noexcept;
  Checkpoint& operator=(Checkpoint&&) noexcept;
  ~Checkpoint();

  const std::filesystem::path& directory() const { return directory_; }
  const nlohmann::json& config() const { return *config_; }        // an object
  const std::string& config_text() const { return config_text_; }  // the bytes of config.json

  const TensorEntry* find(std::string_view name) const;             // nullptr when absent
  const std::vector<std::string>& names() const { return names_; }  // sorted
  const std::vector<SafetensorsFile>& files() const { return files_; }
  uint64_t total_bytes() const;  // of all tensors
  // Where a tensor was looked for: the file that holds it, or "".
  std::string file_of(std::string_view name) const;

  // Oddities that do not prevent loading, for the caller to print: tensors that the index does not
  // list (they are found all the same), and copies of a tensor in a shard that the index does not
  // name for it (the index decides).
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  Checkpoint();
  void open_weights();
  void open_shards(const std::filesystem::path& index_path);

  struct Location {
    size_t file;
    const TensorEntry* entry;
  };

  std::filesystem::path directory_;
  std::string config_text_;
  std::unique_ptr<nlohmann::json> config_;
  std::vector<SafetensorsFile> files_;
  std::unordered_map<std::string_view, Location> index_;
  std::vector<std::string> names_;
  std::vector<std::string> warnings_;
};

// The directory that `directory_or_id` means, as in Checkpoint::open; it need not hold weights, so
// that tokenizers and configs can be named in the same way. Throws CKPT-DIR.
std::filesystem::path resolve_checkpoint_directory(const std::string& directory_or_id);

// True when `name` matches `pattern`, where each `*` stands for any characters or none.
bool matches_pattern(std::string_view pattern, std::string_view name);

// Hands a model its tensors one by one and keeps the account: which were absent, and which of the
// checkpoint nobody asked for.
//
//   CheckpointReader reader(checkpoint, "LlamaForCausalLM");
//   reader.ignore("*.rotary_emb.inv_freq");
//   if (const TensorEntry* entry = reader.take("model.norm.weight", {896})) ...
//   reader.finish();
class CheckpointReader {
 public:
  // The checkpoint must outlive the reader. `model` is named in messages.
  CheckpointReader(const Checkpoint& checkpoint, std::string model);

  // The tensor, marked as used. nullptr when absent: finish() will report it along with all others
  // that are. Throws CKPT-SHAPE when its shape is another, CKPT-DTYPE when its type does not
  // convert to float (quantised weights).
  const TensorEntry* take(std::string_view name, std::initializer_list<int64_t> shape);
  const TensorEntry* take(std::string_view name, std::span<const int64_t> shape);
  // The first of several spellings that is present; the first one is the name in messages.
  const TensorEntry* take_any(const std::vector<std::string>& spellings,
                              std::span<const int64_t> shape);
  // As take, for a tensor that the model can do without.
  const TensorEntry* take_optional(std::string_view name, std::span<const int64_t> shape);

  // Tensors that match this are no surprise: they count neither as used nor as unused.
  void ignore(std::string pattern) { ignored_.push_back(std::move(pattern)); }

  std::vector<std::string> missing() const;
  std::vector<std::string> unused() const;  // sorted, without the ignored ones

  // Throws one CKPT-MISSING that lists what is missing and unused, the likely reason and what to
  // do, when anything is missing. Unused tensors alone are no error: see unused().
  void finish() const;

 private:
  struct Missing {
    std::string name;
    std::vector<int64_t> shape;
  };

  const TensorEntry* use(const std::string& name, std::span<const int64_t> shape);
  bool is_ignored(std::string_view name) const;

  const Checkpoint& checkpoint_;
  std::string model_;
  std::vector<std::string> ignored_;
  std::vector<Missing> missing_;
  std::set<std::string, std::less<>> used_;
  size_t asked_ = 0;
};

}  // namespace engine
