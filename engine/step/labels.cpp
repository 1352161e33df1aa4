#include "engine/step/labels.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <span>

#include "engine/core/error.h"
#include "models/classifier_config.h"

namespace engine {
namespace {

using Json = nlohmann::ordered_json;

template <typename Number>
std::optional<Number> parse_number(std::string_view text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// The elements of a label that is an array; nothing for any other.
std::optional<Json> parse_array(const std::string& label) {
  if (!label.starts_with('[')) return std::nullopt;
  Json json = Json::parse(label, nullptr, /*allow_exceptions=*/false);
  if (!json.is_array()) return std::nullopt;
  return json;
}

bool is_class_id(const std::string& label) {
  const auto id = parse_number<int64_t>(label);
  return id && *id >= 0;
}

bool is_fraction(const std::string& label) {
  return parse_number<double>(label) && !parse_number<int64_t>(label);
}

std::vector<std::string> numbered(int64_t count) {
  std::vector<std::string> names;
  for (int64_t i = 0; i < count; ++i) names.push_back(std::to_string(i));
  return names;
}

// Names in the order of the ids of label2id; empty unless the ids are 0, 1, 2, ...
std::vector<std::string> names_of_config(const Json& json) {
  const auto label2id = json.find("label2id");
  if (label2id == json.end() || !label2id->is_object()) return {};
  std::vector<std::string> names(label2id->size());
  for (const auto& [name, id] : label2id->items()) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 ||
        id.get<int64_t>() >= static_cast<int64_t>(names.size())) {
      return {};
    }
    names[id.get<size_t>()] = name;
  }
  return names;
}

// The number of outputs that config.json knows; 0 when it says nothing.
int64_t outputs_of_config(const Json& json) {
  if (const auto n = json.find("num_labels"); n != json.end() && n->is_number_integer()) {
    return n->get<int64_t>();
  }
  const auto id2label = json.find("id2label");
  return id2label != json.end() && id2label->is_object() ? static_cast<int64_t>(id2label->size())
                                                         : 0;
}

bool knows_all(const std::vector<std::string>& known, const std::set<std::string>& names) {
  return std::all_of(names.begin(), names.end(), [&](const std::string& name) {
    return std::find(known.begin(), known.end(), name) != known.end();
  });
}

ProblemType choose_problem(const ModelConfig& config, const Json& json,
                           const std::vector<std::string>& labels) {
  switch (config.problem_type) {
    case ModelProblem::single_label_classification:
      return ProblemType::single_label;
    case ModelProblem::multi_label_classification:
      return ProblemType::multi_label;
    case ModelProblem::regression:
      return ProblemType::regression;
    case ModelProblem::automatic:
      break;
  }
  if (const auto word = json.find("problem_type"); word != json.end() && word->is_string()) {
    if (const auto type = parse_problem_type(word->get<std::string>())) return *type;
  }
  const int64_t told = !config.label_names.empty() ? static_cast<int64_t>(config.label_names.size())
                                                   : config.num_labels.value_or(0);
  if ((told ? told : outputs_of_config(json)) == 1) return ProblemType::regression;
  const bool arrays = std::any_of(labels.begin(), labels.end(),
                                  [](const std::string& l) { return parse_array(l).has_value(); });
  if (arrays) return ProblemType::multi_label;
  if (std::any_of(labels.begin(), labels.end(), is_fraction)) return ProblemType::regression;
  return ProblemType::single_label;
}

// Ids that labels name: as many classes as the largest needs, and no fewer than are known.
std::vector<std::string> classes_by_id(const ModelConfig& config, const Json& json,
                                       const std::vector<std::string>& labels) {
  int64_t count = config.num_labels.value_or(0);
  for (const std::string& label : labels) {
    count = std::max<int64_t>(count, *parse_number<int64_t>(label) + 1);
  }
  if (!config.num_labels) count = std::max(count, outputs_of_config(json));
  // A checkpoint's own names are worth keeping.
  std::vector<std::string> known = names_of_config(json);
  return static_cast<int64_t>(known.size()) == count ? known : numbered(count);
}

std::vector<std::string> classes_by_name(const ModelConfig& config, const Json& json,
                                         const std::set<std::string>& found) {
  std::vector<std::string> known = names_of_config(json);
  if (!known.empty() && knows_all(known, found)) return known;
  std::vector<std::string> names(found.begin(), found.end());
  for (int64_t i = static_cast<int64_t>(names.size()); i < config.num_labels.value_or(0); ++i) {
    names.push_back(fmt::format("LABEL_{}", i));  // classes without a row
  }
  return names;
}

std::string listed(const std::vector<std::string>& names) {
  constexpr size_t kShown = 20;
  std::string text =
      fmt::format("{}", fmt::join(std::span(names).first(std::min(names.size(), kShown)), ", "));
  if (names.size() > kShown) text += fmt::format(", ... ({} classes)", names.size());
  return text;
}

// One label under a scheme; throws DATA-LABEL without a place.
class Reader {
 public:
  explicit Reader(const LabelScheme& scheme) : scheme_(scheme) {
    for (size_t i = 0; i < scheme.names.size(); ++i) {
      ids_.emplace(scheme.names[i], static_cast<int32_t>(i));
    }
  }

  int32_t class_of(const std::string& label) const {
    if (const auto it = ids_.find(label); it != ids_.end()) return it->second;
    const auto id = parse_number<int32_t>(label);
    if (id && *id >= 0 && *id < outputs()) return *id;
    throw Error(ExitCode::data, "DATA-LABEL", "label \"" + label + "\" is not one of the classes")
        .expected(listed(scheme_.names) + fmt::format(", or 0 to {}", outputs() - 1))
        .fix("list every class in model.label_names, or correct the rows");
  }

  std::vector<float> values_of(const std::string& label) const {
    const std::optional<Json> array = parse_array(label);
    if (scheme_.problem_type == ProblemType::multi_label) {
      if (!array) throw not_understood(label, "an array of names of classes");
      return several(label, *array);
    }
    std::vector<float> values;
    if (array) {
      values = numbers(label, *array);
    } else if (const auto value = parse_number<float>(label)) {
      values = {*value};
    }
    if (static_cast<int64_t>(values.size()) != outputs()) {
      throw not_understood(label,
                           outputs() == 1 ? "a number" : fmt::format("{} numbers", outputs()));
    }
    return values;
  }

 private:
  int64_t outputs() const { return static_cast<int64_t>(scheme_.names.size()); }

  Error not_understood(const std::string& label, const std::string& expected) const {
    Error error(ExitCode::data, "DATA-LABEL",
                fmt::format("label {} is no target of {}", label, name_of(scheme_.problem_type)));
    error.expected(expected);
    return error;
  }

  std::vector<float> numbers(const std::string& label, const Json& array) const {
    std::vector<float> values;
    for (const Json& element : array) {
      if (element.is_boolean()) {
        values.push_back(element.get<bool>() ? 1.0f : 0.0f);
      } else if (element.is_number()) {
        values.push_back(element.get<float>());
      } else {
        throw not_understood(label, "numbers alone");
      }
    }
    return values;
  }

  std::vector<float> several(const std::string& label, const Json& array) const {
    if (!array.empty() && !array.front().is_string()) {
      const std::vector<float> values = numbers(label, array);
      const bool shares =
          std::all_of(values.begin(), values.end(), [](float v) { return v >= 0 && v <= 1; });
      if (static_cast<int64_t>(values.size()) != outputs() || !shares) {
        throw not_understood(label,
                             fmt::format("{} numbers from 0 to 1, one per class", outputs()));
      }
      return values;
    }
    std::vector<float> values(scheme_.names.size(), 0.0f);
    for (const Json& element : array) {
      if (!element.is_string()) throw not_understood(label, "names of classes alone");
      values[static_cast<size_t>(class_of(element.get<std::string>()))] = 1.0f;
    }
    return values;
  }

  const LabelScheme& scheme_;
  std::map<std::string, int32_t> ids_;
};

}  // namespace

LabelScheme choose_labels(const ModelConfig& config, const Json& model_json,
                          const std::vector<std::string>& labels_of_data) {
  if (labels_of_data.empty()) {
    throw Error(ExitCode::usage, "CFG-MISSING", "classification needs labels in the rows")
        .fix("data.label_field=<the field with the class>");
  }
  LabelScheme scheme{.problem_type = choose_problem(config, model_json, labels_of_data),
                     .names = config.label_names};
  if (!scheme.names.empty()) return scheme;
  if (scheme.problem_type == ProblemType::single_label) {
    scheme.names =
        std::all_of(labels_of_data.begin(), labels_of_data.end(), is_class_id)
            ? classes_by_id(config, model_json, labels_of_data)
            : classes_by_name(config, model_json, {labels_of_data.begin(), labels_of_data.end()});
    return scheme;
  }
  // Arrays: of names, or of as many numbers as there are outputs.
  std::set<std::string> found;
  size_t width = 0;
  for (const std::string& label : labels_of_data) {
    const std::optional<Json> array = parse_array(label);
    if (!array) continue;
    for (const Json& element : *array) {
      if (element.is_string()) found.insert(element.get<std::string>());
    }
    if (!array->empty() && !array->front().is_string()) width = std::max(width, array->size());
  }
  if (!found.empty() && scheme.problem_type == ProblemType::multi_label) {
    scheme.names = classes_by_name(config, model_json, found);
    return scheme;
  }
  int64_t count = config.num_labels.value_or(static_cast<int64_t>(width));
  if (count == 0) count = scheme.problem_type == ProblemType::regression ? 1 : 2;
  const std::vector<std::string> known = names_of_config(model_json);
  if (static_cast<int64_t>(known.size()) == count) {
    scheme.names = known;
  } else {
    for (int64_t i = 0; i < count; ++i) scheme.names.push_back(fmt::format("LABEL_{}", i));
  }
  return scheme;
}

void write_labels(const LabelScheme& scheme, Json& model_json) {
  model_json["id2label"] = Json::object();
  model_json["label2id"] = Json::object();
  for (size_t i = 0; i < scheme.names.size(); ++i) {
    model_json["id2label"][std::to_string(i)] = scheme.names[i];
    model_json["label2id"][scheme.names[i]] = i;
  }
  model_json["problem_type"] = name_of(scheme.problem_type);
}

LabelScheme labels_of_model(const Model& model) {
  const auto count = static_cast<size_t>(model.info().num_labels);
  LabelScheme scheme{.problem_type = model.info().problem_type,
                     .names = names_of_config(model.config_json())};
  if (scheme.names.size() == count) return scheme;
  scheme.names.clear();
  for (size_t i = 0; i < count; ++i) scheme.names.push_back(fmt::format("LABEL_{}", i));
  return scheme;
}

LabelTargets label_targets(const LabelScheme& scheme, const TokenisedData& data) {
  const Reader reader(scheme);
  const std::vector<std::string>& labels = data.rows.label_names();
  LabelTargets targets;
  for (size_t i = 0; i < labels.size(); ++i) {
    try {
      if (scheme.problem_type == ProblemType::single_label) {
        targets.classes.push_back(reader.class_of(labels[i]));
      } else {
        const std::vector<float> values = reader.values_of(labels[i]);
        targets.values.insert(targets.values.end(), values.begin(), values.end());
      }
    } catch (Error& error) {
      uint64_t row = 0;
      while (data.rows.label(row) != static_cast<int32_t>(i)) ++row;
      throw error.where(data.place(row));
    }
  }
  return targets;
}

}  // namespace engine
