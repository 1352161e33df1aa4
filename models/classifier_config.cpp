#include "models/classifier_config.h"

#include <nlohmann/json.hpp>

namespace engine {
namespace {

constexpr ProblemType kProblemTypes[] = {ProblemType::single_label, ProblemType::multi_label,
                                         ProblemType::regression};

}  // namespace

std::optional<ProblemType> parse_problem_type(std::string_view name) {
  for (const ProblemType type : kProblemTypes) {
    if (name == name_of(type)) return type;
  }
  return std::nullopt;
}

void read_classifier_config(const ConfigReader& config, ModelInfo& info) {
  if (config.has("num_labels")) {
    info.num_labels = static_cast<int>(config.integer("num_labels", 2));
  } else {
    const nlohmann::json* names = config.object("id2label");
    info.num_labels = names && !names->empty() ? static_cast<int>(names->size()) : 2;
  }
  info.problem_type = info.num_labels == 1 ? ProblemType::regression : ProblemType::single_label;
  const std::string name = config.string("problem_type", "");
  if (name.empty()) return;
  if (const auto type = parse_problem_type(name)) {
    info.problem_type = *type;
    return;
  }
  std::string known;
  for (const ProblemType type : kProblemTypes) {
    known += (known.empty() ? "" : ", ") + std::string(name_of(type));
  }
  config.invalid("problem_type", known, name);
}

}  // namespace engine
