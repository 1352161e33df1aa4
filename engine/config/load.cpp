#include "engine/config/load.h"

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "engine/config/rules.h"
#include "engine/core/file_io.h"

namespace engine {
namespace {

std::string read_config_file(const std::string& path) {
  std::error_code status;
  if (std::filesystem::is_directory(path, status)) {
    throw Error(ExitCode::usage, "CFG-FILE", path + " is a directory, not a config file")
        .fix("name the file inside it");
  }
  try {
    return read_text_file(path, ExitCode::usage);
  } catch (const Error& error) {
    Error named(ExitCode::usage, "CFG-FILE", error.message());
    for (const auto& [label, text] : error.details()) named.with(label, text);
    if (error.code() == "IO-MISSING") named.fix("engine config new, for an example to start from");
    throw named;
  }
}

bool is_boolean(const Field& field) {
  if (const auto* choice = std::get_if<ChoiceSlot>(&field.slot)) {
    return choice->names.size() == 3 && choice->names[1] == "true";
  }
  return std::holds_alternative<bool*>(field.slot) ||
         std::holds_alternative<std::optional<bool>*>(field.slot);
}

// Letters, digits, _ and - with dots between: something that looks like the name of a setting.
bool is_key_like(std::string_view key) {
  if (key.empty() || key.front() == '.' || key.back() == '.') return false;
  for (const char c : key) {
    const bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!word && c != '_' && c != '-' && c != '.') return false;
  }
  return true;
}

}  // namespace

LoadedTrainConfig parse_train_config(std::string_view text, const TrainConfigSource& source) {
  LoadedTrainConfig loaded;
  const Schema schema = train_schema(loaded.config);
  Applier applier(schema);
  applier.apply_document(text, source.path);
  for (const std::string& option : source.options) applier.apply_option(option);
  applier.throw_if_mistaken();
  loaded.origins = std::move(applier.origins());
  for (const Field& field : schema.fields) loaded.origins.try_emplace(field.key);
  apply_rules(schema, source, loaded);
  return loaded;
}

LoadedTrainConfig load_train_config(const TrainConfigSource& source) {
  return parse_train_config(source.path.empty() ? "" : read_config_file(source.path), source);
}

GenerateConfig load_generate_config(const std::vector<std::string>& options) {
  GenerateConfig config;
  const Schema schema = generate_schema(config);
  Applier applier(schema);
  for (const std::string& option : options) applier.apply_option(option);
  applier.throw_if_mistaken();
  return config;
}

void check_files(const TrainConfig& config, const Origins& origins) {
  const auto check = [&](const std::string& key, const std::string& path) {
    std::error_code status;
    if (path.empty() || std::filesystem::exists(path, status)) return;
    Error error(ExitCode::usage, "CFG-FILE", key + " names " + path + ", which is not there");
    const auto origin = origins.find(key);
    if (origin != origins.end()) error.where(origin->second.text);
    throw error.why("relative paths are relative to the working directory, " +
                    std::filesystem::current_path(status).string());
  };
  if (config.model.path) check("model.path", *config.model.path);
  if (config.model.config) check("model.config", config.model.config->path);
  check("model.tokenizer", config.model.tokenizer);
  const auto is_pattern = [](const std::string& path) {
    return path.find_first_of("*?[") != std::string::npos;
  };
  for (const std::string& path : config.data.train) {
    if (!is_pattern(path)) check("data.train", path);
  }
  for (const std::string& path : config.data.validation) {
    if (!is_pattern(path)) check("data.validation", path);
  }
}

std::vector<std::string> take_options(std::vector<std::string>& arguments, const Schema& schema) {
  std::vector<std::string> options, rest;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == "--") {
      rest.insert(rest.end(), arguments.begin() + static_cast<ptrdiff_t>(i), arguments.end());
      break;
    }
    const bool dashes = argument.starts_with("--");
    const size_t equals = argument.find('=');
    std::string key = argument.substr(0, equals).substr(dashes ? 2 : 0);
    const bool key_like = is_key_like(key);
    if (key_like && dashes) {
      for (char& c : key) c = c == '-' ? '_' : c;  // --max-new-tokens
    }
    const Field* field = key_like ? schema.find(key) : nullptr;
    const bool dotted = key_like && key.find('.') != std::string::npos;
    if ((field == nullptr && !dotted) || (!dashes && equals == std::string::npos)) {
      rest.push_back(argument);
    } else if (equals != std::string::npos) {
      options.push_back(key + argument.substr(equals));
    } else {
      const bool has_next = i + 1 < arguments.size();
      const std::string next = has_next ? arguments[i + 1] : "";
      const bool next_is_boolean = next == "true" || next == "false" || next == "auto";
      if (field != nullptr && is_boolean(*field) && !next_is_boolean) {
        options.push_back(key + "=true");
      } else if (!has_next) {
        throw Error(ExitCode::usage, "CFG-SYNTAX", argument + " needs a value")
            .expected(field != nullptr ? type_name(*field) : "a value");
      } else {
        options.push_back(key + "=" + next);
        ++i;
      }
    }
  }
  arguments = std::move(rest);
  return options;
}

}  // namespace engine
