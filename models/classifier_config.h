// What config.json says about the head of a classifier, the same in all families.
#pragma once

#include "models/config_reader.h"
#include "models/model.h"

namespace engine {

// Fills num_labels (from num_labels, else the names in id2label, else 2) and problem_type (as
// written; else regression with one label and one class of several with more, HF's rule).
void read_classifier_config(const ConfigReader& config, ModelInfo& info);

// The type of that name; nothing for a word that is none.
std::optional<ProblemType> parse_problem_type(std::string_view name);

}  // namespace engine
