// Running statistics behind the metric line: smoothed loss, z-scores, clip rate, speed, time left.
// Those whose values reach metrics.jsonl have exact states, so that a resumed run writes the same
// numbers as an uninterrupted one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <vector>

namespace engine {

// Exponential moving average without the pull towards 0 at the start:
//   a ← β a + (1 - β) x,  n ← n + 1,  value = a / (1 - β^n).
// Non-finite values are skipped: one bad step must not blank the curve for good.
class ExponentialAverage {
 public:
  explicit ExponentialAverage(double beta = 0.98) : beta_(beta) {}

  void add(double value);
  std::optional<double> value() const;  // none before the first finite value

  nlohmann::json to_json() const;
  void from_json(const nlohmann::json& state);

 private:
  double beta_;
  double sum_ = 0;
  double weight_ = 0;  // 1 - β^n
};

// How unusual a value is: (x - mean) / standard deviation over the `window` values before it
// (population deviation, non-finite values left out).
class ZScore {
 public:
  explicit ZScore(size_t window = 128, size_t warmup = 16) : window_(window), warmup_(warmup) {}

  // The z-score of `value` against the values before it, which it then joins. None until `warmup`
  // values have been seen. A non-finite value, or any change after constant values, is ±infinity.
  std::optional<double> add(double value);

  nlohmann::json to_json() const;
  void from_json(const nlohmann::json& state);

 private:
  size_t window_;
  size_t warmup_;
  std::vector<double> values_;  // oldest first: sums in a fixed order are the same after a resume
};

// Share of `true` among the last `window` answers (e.g. "was this step clipped?").
class RecentShare {
 public:
  explicit RecentShare(size_t window = 100) : window_(window) {}

  void add(bool value);
  double share() const;  // 0 before the first answer
  size_t count() const { return values_.size(); }

  nlohmann::json to_json() const;
  void from_json(const nlohmann::json& state);

 private:
  size_t window_;
  std::vector<bool> values_;
};

// A sample of a long series for its percentiles, in bounded memory: when full, every second value
// is dropped and from then on only every second, fourth, ... value is kept.
class PercentileSample {
 public:
  explicit PercentileSample(size_t capacity = 4096) : capacity_(capacity) {}

  void add(double value);
  // Nearest rank, `percent` in [0, 100]; none when empty.
  std::optional<double> percentile(double percent) const;

  nlohmann::json to_json() const;
  void from_json(const nlohmann::json& state);

 private:
  size_t capacity_;
  uint64_t seen_ = 0;
  uint64_t stride_ = 1;
  std::vector<double> values_;
};

// Time left: the steps left at the median of the recent step times, plus the same share of other
// work (evaluations, checkpoints) as so far. The median, so that one slow step does not shake it.
class TimeLeft {
 public:
  explicit TimeLeft(size_t window = 50) : window_(window) {}

  void add_step(double seconds);
  void add_other(double seconds);                           // evaluation, checkpoint, samples
  std::optional<double> seconds(int64_t steps_left) const;  // none before the first step

 private:
  size_t window_;
  std::vector<double> recent_;
  double step_seconds_ = 0;
  double other_seconds_ = 0;
};

}  // namespace engine
