// A schema and its values for people and for other programs.
#pragma once

#include <string>

#include "engine/config/load.h"
#include "engine/config/schema.h"

namespace engine {

struct ConfigPrinting {
  bool origins = false;       // a comment behind each value: where it came from
  bool changed_only = false;  // without what is at its default
};

// YAML that loads as the same config.
std::string to_yaml(const LoadedTrainConfig& loaded, const ConfigPrinting& printing = {});
std::string to_yaml(const TrainConfig& config);

// A JSON Schema (draft 2020-12) for editors to complete and check configs with.
std::string train_json_schema();

// docs/config.md.
std::string train_markdown();

// For --help: one line per setting with type, default and documentation.
std::string schema_help(const Schema& schema);

}  // namespace engine
