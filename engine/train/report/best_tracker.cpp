#include "engine/train/report/best_tracker.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/train/report/json_fields.h"

namespace engine {

bool greater_is_better_by_default(std::string_view metric_name) {
  return !metric_name.ends_with("loss") && !metric_name.ends_with("perplexity");
}

BestTracker::Update BestTracker::update(int64_t step, double metric) {
  Update result;
  if (!std::isnan(metric) && (!best_ || gain(metric, *best_) > 0)) {
    best_ = metric;
    best_step_ = step;
    result.is_best = true;
  }
  if (!std::isnan(metric) && (!reference_ || gain(metric, *reference_) > options_.threshold)) {
    reference_ = metric;
    counter_ = 0;
  } else {
    ++counter_;
  }
  result.should_stop = should_stop();
  return result;
}

nlohmann::json BestTracker::to_json() const {
  return {{"best", number_to_json(best_)},
          {"best_step", best_step_ ? nlohmann::json(*best_step_) : nlohmann::json()},
          {"reference", number_to_json(reference_)},
          {"counter", counter_}};
}

void BestTracker::from_json(const nlohmann::json& state) {
  best_ = number_from_json(state.at("best"));
  best_step_.reset();
  if (!state.at("best_step").is_null()) best_step_ = state.at("best_step").get<int64_t>();
  reference_ = number_from_json(state.at("reference"));
  counter_ = state.at("counter").get<int64_t>();
}

}  // namespace engine
