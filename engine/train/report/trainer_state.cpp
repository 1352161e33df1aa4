#include "engine/train/report/trainer_state.h"

#include <nlohmann/json.hpp>
#include <string_view>

#include "engine/core/error.h"
#include "engine/core/file_io.h"

namespace engine {
namespace {

using nlohmann::json;

template <typename T>
json optional_json(const std::optional<T>& value) {
  return value ? json(*value) : json();
}

template <typename T>
void read_field(const json& object, const char* key, T& value) {
  const auto found = object.find(key);
  if (found != object.end() && !found->is_null()) value = found->get<T>();
}

template <typename T>
void read_field(const json& object, const char* key, std::optional<T>& value) {
  const auto found = object.find(key);
  if (found != object.end() && !found->is_null()) value = found->get<T>();
}

// Python's json writes NaN, Infinity and -Infinity as bare words. Outside strings they become null.
std::string without_bare_nan(std::string_view text) {
  std::string result;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      result += c;
      if (c == '\\' && i + 1 < text.size()) result += text[++i];
      if (c == '"') in_string = false;
      continue;
    }
    in_string = c == '"';
    bool replaced = false;
    for (const std::string_view word : {"NaN", "-Infinity", "Infinity"}) {
      if (text.substr(i).starts_with(word)) {
        result += "null";
        i += word.size() - 1;
        replaced = true;
        break;
      }
    }
    if (!replaced) result += c;
  }
  return result;
}

double per_second(double count, double seconds) {
  return seconds > 0 ? count / seconds : 0;
}

Error not_a_state(const std::filesystem::path& path, const std::string& why) {
  return Error(ExitCode::checkpoint, "CKPT-STATE", path.string() + " is not a trainer_state.json")
      .why(why)
      .fix("resume from another checkpoint");
}

}  // namespace

struct TrainerState::History {
  json rows = json::array();
};

TrainerState::TrainerState() : history_(std::make_unique<History>()) {}
TrainerState::TrainerState(TrainerState&&) noexcept = default;
TrainerState& TrainerState::operator=(TrainerState&&) noexcept = default;
TrainerState::~TrainerState() = default;

TrainerState TrainerState::read(const std::filesystem::path& path) {
  TrainerState state;
  const std::string text = without_bare_nan(read_text_file(path, ExitCode::checkpoint));
  try {
    const json object = json::parse(text);
    if (!object.is_object()) throw not_a_state(path, "it holds no JSON object");
    TrainerStateFields& fields = state.fields;
    fields.global_step = object.at("global_step").get<int64_t>();
    read_field(object, "epoch", fields.epoch);
    read_field(object, "max_steps", fields.max_steps);
    read_field(object, "num_train_epochs", fields.num_train_epochs);
    read_field(object, "logging_steps", fields.logging_steps);
    read_field(object, "eval_steps", fields.eval_steps);
    read_field(object, "save_steps", fields.save_steps);
    read_field(object, "train_batch_size", fields.train_batch_size);
    read_field(object, "num_input_tokens_seen", fields.num_input_tokens_seen);
    read_field(object, "total_flos", fields.total_flops);
    read_field(object, "best_metric", fields.best_metric);
    read_field(object, "best_global_step", fields.best_global_step);
    read_field(object, "best_model_checkpoint", fields.best_model_checkpoint);
    state.history_->rows = object.at("log_history");
    if (!state.history_->rows.is_array()) throw not_a_state(path, "log_history is not a list");
    for (const json& row : state.history_->rows) {
      if (!row.is_object() || !row.contains("step")) {
        throw not_a_state(path, "a row of log_history has no step");
      }
    }
  } catch (const json::exception& error) {
    throw not_a_state(path, error.what());
  }
  return state;
}

std::string TrainerState::to_text() const {
  const json object = {
      {"best_global_step", optional_json(fields.best_global_step)},
      {"best_metric", optional_json(fields.best_metric)},
      {"best_model_checkpoint", optional_json(fields.best_model_checkpoint)},
      {"epoch", fields.epoch},
      {"eval_steps", fields.eval_steps},
      {"global_step", fields.global_step},
      {"is_hyper_param_search", false},
      {"is_local_process_zero", true},
      {"is_world_process_zero", true},
      {"log_history", history_->rows},
      {"logging_steps", fields.logging_steps},
      {"max_steps", fields.max_steps},
      {"num_input_tokens_seen", fields.num_input_tokens_seen},
      {"num_train_epochs", fields.num_train_epochs},
      {"save_steps", fields.save_steps},
      {"stateful_callbacks", json::object()},
      {"total_flos", fields.total_flops},
      {"train_batch_size", fields.train_batch_size},
      {"trial_name", nullptr},
      {"trial_params", nullptr},
  };
  return object.dump(2, ' ', /*ensure_ascii=*/true, json::error_handler_t::replace) + "\n";
}

void TrainerState::write(const std::filesystem::path& path) const {
  write_file_atomically(path, std::string_view(to_text()));
}

void TrainerState::add(const TrainRecord& record) {
  json row = {{"epoch", record.epoch},
              {"learning_rate", record.lr},
              {"loss", record.loss},
              {"step", record.step}};
  if (record.grad_norm) row["grad_norm"] = *record.grad_norm;
  history_->rows.push_back(std::move(row));
}

void TrainerState::add(const EvalRecord& record) {
  const std::string prefix = record.name + "_";
  json row = {{"epoch", record.epoch}, {"step", record.step}};
  row[prefix + "loss"] = record.loss;
  row[prefix + "runtime"] = record.seconds;
  row[prefix + "samples_per_second"] = per_second(static_cast<double>(record.rows), record.seconds);
  row[prefix + "steps_per_second"] =
      per_second(static_cast<double>(record.batches), record.seconds);
  if (record.accuracy) row[prefix + "accuracy"] = *record.accuracy;
  for (const EvalGroup& group : record.groups) row[prefix + group.name + "_loss"] = group.loss;
  for (const auto& [name, value] : record.metrics) row[prefix + name] = value;
  history_->rows.push_back(std::move(row));
}

void TrainerState::add(const SummaryRecord& record, int64_t train_rows_seen) {
  history_->rows.push_back(
      {{"epoch", record.epoch},
       {"step", record.step},
       {"total_flos", record.total_flops},
       {"train_loss", record.train_loss},
       {"train_runtime", record.seconds},
       {"train_samples_per_second",
        per_second(static_cast<double>(train_rows_seen), record.seconds)},
       {"train_steps_per_second", per_second(static_cast<double>(record.step), record.seconds)}});
}

int64_t TrainerState::history_size() const {
  return static_cast<int64_t>(history_->rows.size());
}

void TrainerState::truncate_history(int64_t last_step) {
  json kept = json::array();
  for (json& row : history_->rows) {
    const json& step = row.at("step");
    const bool later = !step.is_number() || step.get<double>() > static_cast<double>(last_step);
    if (!later && !row.contains("train_runtime")) kept.push_back(std::move(row));
  }
  history_->rows = std::move(kept);
}

}  // namespace engine
