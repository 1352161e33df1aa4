// engine config show|check|schema|new
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>

#include "engine/config/load.h"
#include "engine/config/print.h"
#include "engine/core/file_io.h"
#include "tools/config_presets.h"
#include "tools/verbs.h"

namespace engine {
namespace {

struct ConfigArguments {
  std::string file;
  std::vector<std::string> options;
  bool changed_only = false;
  bool markdown = false;
  bool files_too = false;
  std::string preset, output;
  bool force = false;
};

void print_warnings(const LoadedTrainConfig& loaded) {
  for (const std::string& warning : loaded.warnings) {
    fmt::print(stderr, "warn  {}\n", warning);
  }
}

void show(const ConfigArguments& arguments) {
  // Half a config can be shown: what is missing is seen, and `check` is there to complain.
  const LoadedTrainConfig loaded = load_train_config({.path = arguments.file,
                                                      .options = arguments.options,
                                                      .needs_model = false,
                                                      .needs_train_data = false});
  print_warnings(loaded);
  fmt::print("{}", to_yaml(loaded, {.origins = true, .changed_only = arguments.changed_only}));
}

void check(const ConfigArguments& arguments) {
  const LoadedTrainConfig loaded =
      load_train_config({.path = arguments.file, .options = arguments.options});
  print_warnings(loaded);
  if (arguments.files_too) check_files(loaded.config, loaded.origins);
  fmt::print("ok: {}\n", arguments.file.empty() ? "options" : arguments.file);
}

void write_new(const ConfigArguments& arguments) {
  std::vector<std::string> names;
  for (const ConfigPreset& preset : config_presets()) {
    names.emplace_back(preset.name);
    if (preset.name != arguments.preset) continue;
    if (arguments.output.empty()) {
      fmt::print("{}", preset.text);
      return;
    }
    if (!arguments.force && std::filesystem::exists(arguments.output)) {
      throw Error(ExitCode::usage, "CLI-EXISTS", arguments.output + " is there already")
          .fix("another --output, or --force");
    }
    write_file_atomically(arguments.output, preset.text);
    fmt::print("wrote {}\n", arguments.output);
    return;
  }
  Error error(ExitCode::usage, "CLI-USAGE",
              arguments.preset.empty() ? "which example?"
                                       : "there is no example `" + arguments.preset + "`");
  std::string list;
  for (const ConfigPreset& preset : config_presets()) {
    list += fmt::format("{}{:<16}{}", list.empty() ? "" : "\n", preset.name, preset.summary);
  }
  error.expected(list);
  const std::string near = nearest_word(arguments.preset, names);
  if (!near.empty()) error.fix("did you mean " + near + "?");
  throw error;
}

}  // namespace

ExitCode run_config(Invocation& invocation) {
  ConfigArguments arguments;
  TrainConfig defaults;
  arguments.options = take_options(invocation.arguments, train_schema(defaults));
  if (invocation.global.threads > 0) {
    arguments.options.push_back(fmt::format("train.threads={}", invocation.global.threads));
  }

  CLI::App app("Settings of a training run: what they are, and what a config makes of them",
               "engine config");
  app.require_subcommand(1);
  CLI::App* show_app = app.add_subcommand(
      "show", "Print every setting with its value and where it came from, as YAML");
  CLI::App* check_app = app.add_subcommand("check", "Tell what is wrong with a config");
  CLI::App* schema_app =
      app.add_subcommand("schema", "Print all settings as a JSON Schema, for editors");
  CLI::App* new_app = app.add_subcommand("new", "Write an example config to start from");
  for (CLI::App* sub : {show_app, check_app}) {
    sub->add_option("config", arguments.file, "YAML or JSON; section.setting=value wins over it");
  }
  show_app->add_flag("--changed", arguments.changed_only, "Leave out what is at its default");
  check_app->add_flag("--files", arguments.files_too, "Also look whether files are there");
  schema_app->add_flag("--markdown", arguments.markdown, "As a page for people: docs/config.md");
  new_app->add_option("example", arguments.preset, "Which; without it they are listed");
  new_app->add_option("-o,--output", arguments.output, "File to write; default standard output");
  new_app->add_flag("--force", arguments.force, "Replace that file");
  if (!parse_arguments(app, invocation)) return ExitCode::ok;

  if (show_app->parsed()) show(arguments);
  if (check_app->parsed()) check(arguments);
  if (schema_app->parsed()) {
    fmt::print("{}", arguments.markdown ? train_markdown() : train_json_schema());
  }
  if (new_app->parsed()) write_new(arguments);
  return ExitCode::ok;
}

}  // namespace engine
