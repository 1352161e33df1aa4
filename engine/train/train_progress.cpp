#include "engine/train/train_progress.h"

namespace engine {
namespace {

nlohmann::json optional_json(const std::optional<double>& value) {
  return value ? nlohmann::json(*value) : nlohmann::json(nullptr);
}

std::optional<double> json_optional(const nlohmann::json& value) {
  return value.is_null() ? std::nullopt : std::optional<double>(value.get<double>());
}

}  // namespace

TrainProgress::TrainProgress(const TrainConfig& config)
    : best({.greater_is_better = !config.train.lower_is_better(),
            .patience = config.train.early_stopping.patience,
            .threshold = config.train.early_stopping.threshold}) {}

nlohmann::json TrainProgress::to_json() const {
  return {{"step", step},
          {"updates", updates},
          {"epoch", position.epoch},
          {"micro_batch", position.index},
          {"tokens", tokens},
          {"tokens_trained", tokens_trained},
          {"rows", rows},
          {"loss_sum", loss_sum},
          {"flops", flops},
          {"nonfinite", nonfinite},
          {"skipped", skipped},
          {"clipped", clipped},
          {"interval",
           {{"loss_sum", interval.loss_sum},
            {"steps", interval.steps},
            {"nonfinite", interval.nonfinite}}},
          {"loss_ema", loss_ema.to_json()},
          {"loss_z", loss_z.to_json()},
          {"norm_z", norm_z.to_json()},
          {"recent_clipped", recent_clipped.to_json()},
          {"best", best.to_json()},
          {"max_norm_z", max_norm_z},
          {"max_norm_z_step", max_norm_z_step},
          {"first_losses", first_losses},
          {"last_losses", last_losses},
          {"first_eval", optional_json(first_eval)},
          {"last_eval", optional_json(last_eval)}};
}

void TrainProgress::from_json(const nlohmann::json& state) {
  step = state.at("step");
  updates = state.at("updates");
  position = {state.at("epoch"), state.at("micro_batch")};
  tokens = state.at("tokens");
  tokens_trained = state.at("tokens_trained");
  rows = state.at("rows");
  loss_sum = state.at("loss_sum");
  flops = state.at("flops");
  nonfinite = state.at("nonfinite");
  skipped = state.at("skipped");
  clipped = state.at("clipped");
  interval.loss_sum = state.at("interval").at("loss_sum");
  interval.steps = state.at("interval").at("steps");
  interval.nonfinite = state.at("interval").at("nonfinite");
  loss_ema.from_json(state.at("loss_ema"));
  loss_z.from_json(state.at("loss_z"));
  norm_z.from_json(state.at("norm_z"));
  recent_clipped.from_json(state.at("recent_clipped"));
  best.from_json(state.at("best"));
  max_norm_z = state.at("max_norm_z");
  max_norm_z_step = state.at("max_norm_z_step");
  first_losses = state.at("first_losses").get<std::vector<double>>();
  last_losses = state.at("last_losses").get<std::vector<double>>();
  first_eval = json_optional(state.at("first_eval"));
  last_eval = json_optional(state.at("last_eval"));
}

}  // namespace engine
