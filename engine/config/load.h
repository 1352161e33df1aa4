// From files and options to a checked config.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/config/apply.h"
#include "engine/config/train_config.h"

namespace engine {

struct LoadedTrainConfig {
  TrainConfig config;
  Origins origins;                    // of every setting
  std::vector<std::string> warnings;  // one line each, e.g. settings without effect
};

struct TrainConfigSource {
  std::string path;                  // "" = defaults and options only
  std::vector<std::string> options;  // "a.b=value", later ones win
  bool needs_model = true;           // one of model.path and model.config must be set
  bool needs_train_data = true;      // data.train must not be empty
};

// Mistakes are Errors with exit code `usage`:
//   CFG-FILE       no such file, or it cannot be read
//   CFG-SYNTAX     not YAML
//   CFG-DUPLICATE  a setting given twice
//   CFG-LIMIT      absurdly large or deep
//   CFG-UNKNOWN    no such setting, with the one that was probably meant
//   CFG-TYPE       wrong type
//   CFG-RANGE      right type, impossible value
//   CFG-CONFLICT   settings that contradict each other
//   CFG-MISSING    a setting that must be given
//
// An option that sets one member of a "one of" group (train.max_steps) unsets the others (
// train.epochs) of the file.
LoadedTrainConfig load_train_config(const TrainConfigSource& source);

// The same with the text of the config in place of its file; `source.path` is its name in errors.
LoadedTrainConfig parse_train_config(std::string_view text, const TrainConfigSource& source);

// Settings of `engine generate`: options such as "temperature=0.7".
GenerateConfig load_generate_config(const std::vector<std::string>& options);

// Throws CFG-FILE unless the model, tokenizer and data that `config` names are there.
void check_files(const TrainConfig& config, const Origins& origins);

// Takes the settings out of a command line: "key=value", "--key=value" and "--key value" for keys
// of the schema (and anything dotted, so that a typing mistake is answered); a true|false setting
// needs no value. Returns them as "key=value" and leaves the rest in `arguments`. "--" ends it.
std::vector<std::string> take_options(std::vector<std::string>& arguments, const Schema& schema);

}  // namespace engine
