// The best evaluation so far, and when to stop early.
//
// Best: a strictly better metric wins; NaN never does. Early stopping (patience > 0): an evaluation
// that is better than the *reference* by more than `threshold` resets the counter and becomes the
// new reference; any other adds one, and training stops when the counter reaches `patience`.
//
// This differs from the Hugging Face EarlyStoppingCallback on purpose. There the reference is the
// best metric, which also moves on improvements below the threshold, so that a slow, steady
// improvement stops the run. Here small improvements add up until they exceed the threshold.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string_view>

namespace engine {

struct BestTrackerOptions {
  bool greater_is_better = false;
  int64_t patience = 0;  // evaluations without a reset before stopping; 0 = never stop
  double threshold = 0;
};

// False for losses ("loss", "eval_dialog_loss") and "perplexity"; true for everything else.
bool greater_is_better_by_default(std::string_view metric_name);

class BestTracker {
 public:
  explicit BestTracker(const BestTrackerOptions& options) : options_(options) {}

  struct Update {
    bool is_best = false;      // save it
    bool should_stop = false;  // patience is exhausted
  };
  // Once per evaluation, in order. After a resume with should_stop still pending, should_stop()
  // says so at once.
  Update update(int64_t step, double metric);

  std::optional<double> best_metric() const { return best_; }
  std::optional<int64_t> best_step() const { return best_step_; }
  int64_t evaluations_without_reset() const { return counter_; }
  bool should_stop() const { return options_.patience > 0 && counter_ >= options_.patience; }

  // The state, not the options: those come from the config, and patience may change on resume.
  nlohmann::json to_json() const;
  void from_json(const nlohmann::json& state);

 private:
  // How much better `metric` is than `reference`; negative when worse.
  double gain(double metric, double reference) const {
    return options_.greater_is_better ? metric - reference : reference - metric;
  }

  BestTrackerOptions options_;
  std::optional<double> best_;
  std::optional<int64_t> best_step_;
  std::optional<double> reference_;
  int64_t counter_ = 0;
};

}  // namespace engine
