// engine eval DIR --data FILE [...] [a.b=v ...] [--predictions FILE] [--json]
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "engine/config/load.h"
#include "engine/core/device_name.h"
#include "engine/core/file_io.h"
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
  for (const auto& [name, value] : record.metrics) json[name] = value;
  for (const EvalGroup& group : record.groups) {
    nlohmann::ordered_json& entry = json["groups"][group.name];
    entry = {{"loss", group.loss}, {"rows", group.rows}};
    if (!group.scores) continue;
    entry["precision"] = group.scores->precision;
    entry["recall"] = group.scores->recall;
    entry["f1"] = group.scores->f1;
  }
  fmt::print("{}\n", json.dump());
}

void print_text(const Evaluation& evaluation) {
  const EvalRecord& record = evaluation.record;
  if (!record.per_token && record.tokens_trained == 0) {
    fmt::print("no row has a label: {} rows, {:.1f} s\n", record.rows, record.seconds);
    return;
  }
  fmt::print("loss        {:.6f}\n", record.loss);
  if (evaluation.perplexity) fmt::print("perplexity  {:.4f}\n", *evaluation.perplexity);
  if (record.accuracy) fmt::print("accuracy    {:.4f}\n", *record.accuracy);
  for (const auto& [name, value] : record.metrics) fmt::print("{:<10}  {:.4f}\n", name, value);
  fmt::print("over        {} labels of {} rows, {} batches, {:.1f} s\n", record.tokens_trained,
             record.rows, record.batches, record.seconds);
  for (const EvalGroup& group : record.groups) {
    fmt::print("  {:<20} loss {:.6f}", group.name, group.loss);
    if (const auto& scores = group.scores) {
      fmt::print("  precision {:.4f}  recall {:.4f}  f1 {:.4f}", scores->precision, scores->recall,
                 scores->f1);
    }
    fmt::print("  {} rows\n", group.rows);
  }
}

// One row of the file of predictions.
nlohmann::ordered_json prediction(const Answer& answer, const LabelScheme& labels) {
  nlohmann::ordered_json json{{"file", answer.file}, {"line", answer.line}};
  if (answer.label) json["label"] = *answer.label;
  switch (labels.problem_type) {
    case ProblemType::single_label:
      json["prediction"] = labels.names[static_cast<size_t>(answer.classes[0])];
      break;
    case ProblemType::multi_label:
      json["prediction"] = nlohmann::ordered_json::array();
      for (const int id : answer.classes) {
        json["prediction"].push_back(labels.names[static_cast<size_t>(id)]);
      }
      break;
    case ProblemType::regression:
      json["prediction"] = answer.logits.size() == 1 ? nlohmann::ordered_json(answer.logits[0])
                                                     : nlohmann::ordered_json(answer.logits);
      return json;
  }
  for (size_t i = 0; i < labels.names.size(); ++i) {
    json["probabilities"][labels.names[i]] = answer.probabilities[i];
  }
  json["logits"] = answer.logits;
  return json;
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
  std::string predictions_path;
  app.add_option("--predictions", predictions_path,
                 "Classifiers: write what the model answers for each row, as JSON Lines; rows need "
                 "no labels then");
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
  std::string predictions;
  if (!predictions_path.empty()) {
    request.on_answer = [&](const Answer& answer, const LabelScheme& labels) {
      predictions += prediction(answer, labels)
                         .dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) +
                     "\n";
    };
  }
  const Evaluation evaluation = evaluate_checkpoint(request);
  console.clear_progress();
  if (invocation.global.verbosity > 0) fmt::print(stderr, "{}\n", evaluation.data_summary);
  if (!predictions_path.empty()) {
    if (evaluation.record.per_token) {
      throw Error(ExitCode::usage, "CLI-USAGE", "--predictions is for classifiers")
          .fix("engine generate writes what a language model answers");
    }
    write_file_atomically(predictions_path, predictions);
  }
  if (json) {
    print_json(evaluation);
  } else {
    print_text(evaluation);
  }
  return ExitCode::ok;
}

}  // namespace engine
