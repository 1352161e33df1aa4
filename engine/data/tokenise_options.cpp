// From section `data` of a config to the options of tokenise.h.
#include <utility>

#include "engine/core/error.h"
#include "engine/data/tokenise.h"

namespace engine {

TokeniseOptions tokenise_options(const DataConfig& config, std::vector<std::string> files) {
  TokeniseOptions options;
  options.files = std::move(files);
  options.format = config.format;
  options.split = config.split;
  options.add_bos = config.add_bos;
  options.add_eos = config.add_eos;
  options.train_on = config.train_on;
  options.cache_dir = config.cache_dir;
  FieldOptions& fields = options.fields;
  fields.label = config.label_field;
  const std::pair<const char*, std::string*> roles[] = {{"text_pair", &fields.text_pair},
                                                        {"text", &fields.text},
                                                        {"prompt", &fields.prompt},
                                                        {"source", &fields.prompt},
                                                        {"completion", &fields.completion},
                                                        {"target", &fields.completion},
                                                        {"input_ids", &fields.input_ids},
                                                        {"labels", &fields.labels},
                                                        {"messages", &fields.messages},
                                                        {"tools", &fields.tools},
                                                        {"role", &fields.role},
                                                        {"content", &fields.content}};
  for (const auto& [role, name] : config.fields) {
    std::string* field = nullptr;
    std::vector<std::string> known;
    for (const auto& [word, target] : roles) {
      known.push_back(word);
      if (role == word) field = target;
    }
    if (!field || !field->empty()) {
      const std::string similar = nearest_word(role, known);
      Error error(ExitCode::usage, "DATA-FIELDS",
                  field ? "data.fields names one role twice: " + role
                        : "data.fields has an unknown role: " + role);
      error.expected(
          "text [and text_pair] | prompt (source), completion (target) | messages, tools, role, "
          "content | "
          "input_ids, labels");
      if (!similar.empty() && !field) error.fix("did you mean " + similar + "?");
      throw error;
    }
    *field = name;
  }
  return options;
}

TokeniseOptions classification_options(const DataConfig& config, std::vector<std::string> files,
                                       bool labels_required) {
  TokeniseOptions options = tokenise_options(config, std::move(files));
  options.fields.label_is_target = true;
  options.fields.label_required = labels_required;
  options.classification.emplace();
  if (config.overflow == Overflow::truncate_right || config.overflow == Overflow::truncate_left) {
    options.classification->max_length = config.max_length;
    options.classification->keep_end = config.overflow == Overflow::truncate_left;
  }
  return options;
}

}  // namespace engine
