// engine train CONFIG.yaml [a.b=v ...] [--device D] [--dry-run] [--resume] [--resume-override]
#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "engine/config/load.h"
#include "engine/core/device_name.h"
#include "engine/train/trainer.h"
#include "tools/command_line.h"
#include "tools/verbs.h"

namespace engine {

ExitCode run_train(Invocation& invocation) {
  TrainConfigSource source;
  TrainConfig defaults;
  source.options = take_options(invocation.arguments, train_schema(defaults));
  if (invocation.global.threads > 0) {
    source.options.push_back(fmt::format("train.threads={}", invocation.global.threads));
  }

  CLI::App app("Train a model: pre-flight, training loop, checkpoints, summary", "engine train");
  bool dry_run = false, resume = false, resume_override = false;
  app.add_option("config", source.path, "YAML or JSON; section.setting=value wins over it");
  app.add_flag("--dry-run", dry_run,
               "Stop after the pre-flight: config, tokenizer, data, memory plan, one step on the "
               "longest batch; nothing is written");
  app.add_flag("--resume", resume,
               "Continue from the newest checkpoint in train.output_dir, bit for bit");
  app.add_flag("--resume-override", resume_override,
               "With --resume: go on although settings that shape the run have changed");
  std::string device;
  app.add_option("--device", device,
                 std::string(kDeviceNames) + ": train.device of the config, and wins over it");
  app.footer("Settings are section.setting=value; `engine config schema --markdown` lists them.");
  if (!parse_arguments(app, invocation)) return ExitCode::ok;
  if (!device.empty()) source.options.push_back("train.device=" + device);
  if (resume) source.options.push_back("train.resume=true");

  const LoadedTrainConfig loaded = load_train_config(source);
  for (const std::string& warning : loaded.warnings) {
    fmt::print(stderr, "warn    {}\n", warning);
  }
  std::string repro = "engine train";
  if (!source.path.empty()) repro += " " + source.path;
  for (const std::string& option : source.options) repro += " " + option;
  Console console(1, invocation.global.color != ColorMode::automatic ? invocation.global.color
                                                                     : loaded.config.logging.color);
  return train({.config = loaded,
                .dry_run = dry_run,
                .resume_override = resume_override,
                .version = version_text(),
                .repro = repro},
               console);
}

}  // namespace engine
