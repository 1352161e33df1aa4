#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "weights/checkpoint.h"

namespace engine {

namespace {

// One name per line, as many as fit on a screen beside the other details.
std::string lines_of(const std::vector<std::string>& names) {
  constexpr size_t kShown = 8;
  std::string text;
  for (size_t i = 0; i < std::min(kShown, names.size()); ++i) text += (i ? "\n" : "") + names[i];
  if (names.size() > kShown) text += fmt::format("\n... and {} more", names.size() - kShown);
  return text;
}

bool any_contains(const std::vector<std::string>& names,
                  std::initializer_list<const char*> fragments) {
  return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
    return std::any_of(fragments.begin(), fragments.end(), [&](const char* fragment) {
      return name.find(fragment) != std::string::npos;
    });
  });
}

// What `extra` looks like when every one of `missing` ends with or is the end of an unused name:
// the prefix that would have to be added (+) or removed (-). "" when there is no such prefix.
std::string prefix_difference(const std::vector<std::string>& missing,
                              const std::vector<std::string>& unused) {
  if (missing.empty() || unused.empty()) return "";
  const std::string& wanted = missing.front();
  for (const std::string& name : unused) {
    if (name.size() > wanted.size() && name.ends_with("." + wanted)) {
      return "+" + name.substr(0, name.size() - wanted.size());
    }
    if (wanted.size() > name.size() && wanted.ends_with("." + name)) {
      return "-" + wanted.substr(0, wanted.size() - name.size());
    }
  }
  return "";
}

bool is_output_head(std::string_view name) {
  return name == "lm_head.weight";
}

// Integers can be read as numbers too, but as weights they are a quantised export's.
bool is_weight_type(FileDtype dtype) {
  return dtype == FileDtype::f32 || dtype == FileDtype::bf16 || dtype == FileDtype::f16 ||
         dtype == FileDtype::f64;
}

}  // namespace

bool matches_pattern(std::string_view pattern, std::string_view name) {
  // Greedy matching with one point to return to: the last star.
  size_t p = 0, n = 0, star = std::string_view::npos, resume = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

CheckpointReader::CheckpointReader(const Checkpoint& checkpoint, std::string model)
    : checkpoint_(checkpoint), model_(std::move(model)) {}

bool CheckpointReader::is_ignored(std::string_view name) const {
  return std::any_of(ignored_.begin(), ignored_.end(),
                     [&](const std::string& pattern) { return matches_pattern(pattern, name); });
}

const TensorEntry* CheckpointReader::use(const std::string& name, std::span<const int64_t> shape) {
  const TensorEntry* entry = checkpoint_.find(name);
  if (!entry) return nullptr;
  used_.insert(name);
  const std::string where = (checkpoint_.directory() / checkpoint_.file_of(name)).string();
  if (!std::equal(entry->shape.begin(), entry->shape.end(), shape.begin(), shape.end())) {
    Error error(ExitCode::checkpoint, "CKPT-SHAPE",
                fmt::format("{} is {} in the file, but the config makes it {}", name,
                            format_shape(entry->shape), format_shape(shape)));
    error.where(where);
    const bool two_dimensional = shape.size() == 2 && entry->shape.size() == 2;
    if (two_dimensional && entry->shape[0] == shape[1] && entry->shape[1] == shape[0]) {
      error.why("the matrix is stored transposed: another architecture's layout")
          .fix("check model_type in config.json");
    } else if (two_dimensional && entry->shape[1] == shape[1] &&
               (name.find("embed") != std::string::npos || name.find("wte") != std::string::npos ||
                name.find("shared") != std::string::npos || is_output_head(name))) {
      error.why("the vocabulary of the checkpoint was padded or extended")
          .fix(fmt::format("set vocab_size to {} in config.json", entry->shape[0]));
    } else {
      error.why("config.json belongs to another model, or was edited")
          .fix("use the config.json that came with these weights");
    }
    throw error;
  }
  if (!is_weight_type(entry->dtype)) {
    throw Error(ExitCode::checkpoint, "CKPT-DTYPE",
                fmt::format("{} has type {}, which cannot be trained on as it is", name,
                            name_of(entry->dtype)))
        .where(where)
        .expected("F32, BF16, F16 or F64")
        .why("a quantised export: its numbers mean something only with their scales")
        .fix("use the original, unquantised checkpoint");
  }
  return entry;
}

const TensorEntry* CheckpointReader::take(std::string_view name,
                                          std::initializer_list<int64_t> shape) {
  return take(name, std::span<const int64_t>(shape.begin(), shape.size()));
}

const TensorEntry* CheckpointReader::take(std::string_view name, std::span<const int64_t> shape) {
  return take_any({std::string(name)}, shape);
}

const TensorEntry* CheckpointReader::take_any(const std::vector<std::string>& spellings,
                                              std::span<const int64_t> shape) {
  ++asked_;
  for (const std::string& name : spellings) {
    if (const TensorEntry* entry = use(name, shape)) return entry;
  }
  missing_.push_back({spellings.front(), {shape.begin(), shape.end()}});
  return nullptr;
}

const TensorEntry* CheckpointReader::take_optional(std::string_view name,
                                                   std::span<const int64_t> shape) {
  return use(std::string(name), shape);
}

std::vector<std::string> CheckpointReader::missing() const {
  std::vector<std::string> names;
  for (const Missing& tensor : missing_) names.push_back(tensor.name);
  return names;
}

std::vector<std::string> CheckpointReader::unused() const {
  std::vector<std::string> names;
  for (const std::string& name : checkpoint_.names()) {
    if (!used_.contains(name) && !is_ignored(name)) names.push_back(name);
  }
  return names;
}

void CheckpointReader::finish() const {
  if (missing_.empty()) return;
  const std::vector<std::string> missing_names = missing(), unused_names = unused();
  Error error(ExitCode::checkpoint, "CKPT-MISSING",
              fmt::format("the checkpoint lacks {} of the {} tensors of {}", missing_.size(),
                          asked_, model_));

  const nlohmann::json& config = checkpoint_.config();
  std::string about;
  for (const char* key :
       {"model_type", "num_hidden_layers", "n_layer", "num_layers", "tie_word_embeddings"}) {
    if (const auto found = config.find(key); found != config.end() && found->is_primitive()) {
      about += fmt::format("{}{}={}", about.empty() ? "" : ", ", key,
                           found->is_string() ? found->get<std::string>() : found->dump());
    }
  }
  error.where(checkpoint_.directory().string() + (about.empty() ? "" : " (config: " + about + ")"));

  std::vector<std::string> described;
  for (const Missing& tensor : missing_) {
    described.push_back(tensor.name + " " + format_shape(tensor.shape));
  }
  error.with("missing", lines_of(described));
  if (!unused_names.empty()) {
    error.with("unused", fmt::format("{}: {}", unused_names.size(), lines_of(unused_names)));
  }

  const std::string prefix = prefix_difference(missing_names, unused_names);
  if (missing_names.size() == 1 && is_output_head(missing_names[0])) {
    error.why("the output head is normally shared with the input embedding in this family")
        .fix("set tie_word_embeddings to true");
  } else if (any_contains(unused_names, {"lora_A", "lora_B"})) {
    error.why("these are adapter weights (LoRA), or a model saved with its adapter unmerged")
        .fix("merge the adapter into the base model first");
  } else if (any_contains(unused_names, {"qweight", "qzeros", "weight_scale", ".scales", "absmax",
                                         "weight_packed", "input_scale"})) {
    error.why("the unused names are those of a quantised export")
        .fix("use the original, unquantised checkpoint");
  } else if (!prefix.empty()) {
    error
        .why(fmt::format("the file's names have the prefix \"{}\" {}", prefix.substr(1),
                         prefix[0] == '+' ? "before them" : "missing"))
        .fix(
            "it was saved from another class (a wrapper or a bare model): check \"architectures\" "
            "in config.json, or export it again");
  } else if (unused_names.empty()) {
    error.why("the file holds fewer layers than config.json says, or it was saved in part")
        .fix("download or export the checkpoint again");
  } else {
    error.why("config.json and the weights belong to different models")
        .fix("use the config.json that came with these weights");
  }
  throw error;
}

}  // namespace engine
