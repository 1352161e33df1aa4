// engine eval DIR --data FILE [...] [a.b=v ...] [--json]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "engine/config/load.h"
#include "engine/core/device_name.h"
#include "engine/evaluate/evaluation.h"
#include "engine/train/report/console.h"
#include "tools/device.h"
#include "tools/verbs.h"

namespace engine {
namespace {

void print_json(const Evaluation& evaluation) {
  const EvalRecord& record = evaluation.record;
  nlohmann::ordered_json json;
  json["loss"] = record.loss;
  if (evaluation.perplexity) json["perplexity"] = *evaluation.perplexity;
  if (record.accuracy) json["accuracy"] = *record.accuracy;
  json["rows"] = record.rows;
  json["labels"] = record.tokens_trained;
  json["batches"] = record.batches;
  json["seconds"] = record.seconds;
  if (!record.groups.empty()) {
    for (const EvalGroup& group : record.groups) {
      json["groups"][group.name] = {{"loss", group.loss}, {"rows", group.rows}};
    }
  }
  fmt::print("{}\n", json.dump());
}

void print_text(const Evaluation& evaluation) {
  const EvalRecord& record = evaluation.record;
  fmt::print("loss        {:.6f}\n", record.loss);
  if (evaluation.perplexity) fmt::print("perplexity  {:.4f}\n", *evaluation.perplexity);
  if (record.accuracy) fmt::print("accuracy    {:.4f}\n", *record.accuracy);
  fmt::print("over        {} labels of {} rows, {} batches, {:.1f} s\n", record.tokens_trained,
             record.rows, record.batches, record.seconds);
  for (const EvalGroup& group : record.groups) {
    fmt::print("  {:<20} loss {:.6f}  {} rows\n", group.name, group.loss, group.rows);
  }
}

}  // namespace

ExitCode run_eval(Invocation& invocation) {
  TrainConfig defaults;
  std::vector<std::string> settings;
  std::string model;
  std::vector<std::string> data;
  bool json = false;
  // --data FILE is this verb's own; everything with a dot is a setting.
  settings = take_options(invocation.arguments, train_schema(defaults));
  CLI::App app("Loss and accuracy of a model on data", "engine eval");
  app.add_option("model", model, "Hugging Face model directory, or org/name in its cache")
      ->required();
  app.add_option("-d,--data", data, "Files, globs or directories of rows, as data.train takes")
      ->required();
  app.add_flag("--json", json, "One JSON object");
  std::string device;
  app.add_option("--device", device, std::string(kDeviceNames) + "; the same as train.device=...");
  app.footer(
      "Settings are section.setting=value as for `engine train`; section data, train.precision, "
      "train.device,\n"
      "train.micro_batch_tokens, train.micro_batch_rows, train.eval_max_batches and "
      "model.tokenizer count.\n");
  if (!parse_arguments(app, invocation)) return ExitCode::ok;

  if (!device.empty()) settings.push_back("train.device=" + device);
  EvaluationRequest request;
  const LoadedTrainConfig loaded = load_train_config(
      {.path = "", .options = settings, .needs_model = false, .needs_train_data = false});
  request.config = loaded.config;
  request.config.model.path = model;
  request.device = device_of(request.config.train.device, invocation);
  request.config.data.validation = data;
  Console console(2, invocation.global.color);
  request.progress = [&](int64_t done, int64_t total) {
    console.progress({.step = done, .total_steps = total, .label = "eval", .text = ""});
  };
  const Evaluation evaluation = evaluate_checkpoint(request);
  console.clear_progress();
  if (invocation.global.verbosity > 0) fmt::print(stderr, "{}\n", evaluation.data_summary);
  if (json) {
    print_json(evaluation);
  } else {
    print_text(evaluation);
  }
  return ExitCode::ok;
}

}  // namespace engine
