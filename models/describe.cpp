#include "models/describe.h"

#include <algorithm>
#include <memory>

namespace engine {
namespace {

void add_to_group(ModelDescription& description, const std::string& name,
                  const std::vector<int64_t>& shape, const std::string& dtype, int64_t count) {
  const std::string folded = without_layer(name);
  auto group =
      std::find_if(description.groups.begin(), description.groups.end(), [&](const TensorGroup& g) {
        return g.name == folded && g.shape == shape && g.dtype == dtype;
      });
  if (group == description.groups.end()) {
    description.groups.push_back({folded, shape, dtype, 0, 0});
    group = description.groups.end() - 1;
  }
  ++group->tensors;
  group->parameters += count;
}

}  // namespace

std::string without_layer(const std::string& name) {
  for (size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', dot + 1)) {
    const size_t end = name.find('.', dot + 1);
    if (end == std::string::npos) break;
    const std::string part = name.substr(dot + 1, end - dot - 1);
    if (!part.empty() && part.find_first_not_of("0123456789") == std::string::npos) {
      return name.substr(0, dot + 1) + "*" + name.substr(end);
    }
  }
  return name;
}

ModelDescription describe_model(const Model& model, const Checkpoint* checkpoint) {
  ModelDescription description;
  std::unique_ptr<CheckpointReader> reader;
  if (checkpoint) {
    reader = std::make_unique<CheckpointReader>(*checkpoint, model.info().architecture);
  }
  for (const auto& parameter : model.parameters()) {
    for (const ParameterPart& part : parameter->parts) {
      const std::vector<int64_t> shape = part.shape.vector();
      const TensorEntry* entry =
          reader ? reader->take_any(model.spellings(part.name), shape) : nullptr;
      add_to_group(description, part.name, shape, entry ? std::string(name_of(entry->dtype)) : "",
                   part.shape.count());
      ++description.tensors;
    }
  }
  description.parameters = model.parameters().count();
  if (model.info().tied_head && model.info().task == Task::causal_lm) {
    description.tied.push_back({"lm_head.weight", (*model.parameters().begin())->name()});
  }
  if (!reader) return description;
  description.missing = reader->missing();
  for (const std::string& name : reader->unused()) {
    (model.ignorable(name) ? description.ignored : description.unused).push_back(name);
  }
  return description;
}

}  // namespace engine
