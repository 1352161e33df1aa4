// From the labels that rows carry to what a classifier is trained on.
//
// A label is text as the row parser leaves it (row_parser.h): a name or a number, or a JSON array
// of them. What it may be depends on the problem:
//   single label   the name of a class, or its number
//   regression     a number; with several outputs an array of as many
//   multi label    an array of names of classes, or of one number in 0..1 per class, in their order
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "engine/config/train_config.h"
#include "engine/data/tokenise.h"
#include "engine/step/run_batch.h"

namespace engine {

// The classes of a run, and what its labels are.
struct LabelScheme {
  ProblemType problem_type = ProblemType::single_label;
  std::vector<std::string> names;  // of the classes, or outputs, in the order of their ids
};

// Decides them for training, from the settings model.problem_type, model.label_names and
// model.num_labels first, then from the model's config.json (problem_type, id2label), then from the
// labels: arrays are several labels at once, numbers with a fraction are regression, whole numbers
// are ids of classes, and names are sorted. One label alone is regression, as in HF. Throws
// CFG-MISSING when the rows have no labels.
LabelScheme choose_labels(const ModelConfig& config, const nlohmann::ordered_json& model_json,
                          const std::vector<std::string>& labels_of_data);

// Writes id2label, label2id and problem_type as HF has them.
void write_labels(const LabelScheme& scheme, nlohmann::ordered_json& model_json);

// What a classifier's own config.json says.
LabelScheme labels_of_model(const Model& model);

// Throws DATA-LABEL, with file and line of the first row that has it, for a label that means
// nothing under the scheme.
LabelTargets label_targets(const LabelScheme& scheme, const TokenisedData& data);

}  // namespace engine
