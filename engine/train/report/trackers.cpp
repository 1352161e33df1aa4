#include "engine/train/report/trackers.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

namespace engine {
namespace {

template <typename T>
void push_bounded(std::vector<T>& values, T value, size_t limit) {
  if (values.size() == limit) values.erase(values.begin());
  values.push_back(value);
}

}  // namespace

void ExponentialAverage::add(double value) {
  if (!std::isfinite(value)) return;
  sum_ = beta_ * sum_ + (1 - beta_) * value;
  weight_ = beta_ * weight_ + (1 - beta_);
}

std::optional<double> ExponentialAverage::value() const {
  if (weight_ == 0) return std::nullopt;
  return sum_ / weight_;
}

nlohmann::json ExponentialAverage::to_json() const {
  return {{"sum", sum_}, {"weight", weight_}};
}

void ExponentialAverage::from_json(const nlohmann::json& state) {
  sum_ = state.at("sum").get<double>();
  weight_ = state.at("weight").get<double>();
}

std::optional<double> ZScore::add(double value) {
  std::optional<double> result;
  if (values_.size() >= warmup_) {
    const auto count = static_cast<double>(values_.size());
    double mean = 0;
    for (const double x : values_) mean += x / count;
    double variance = 0;
    for (const double x : values_) variance += (x - mean) * (x - mean) / count;
    // Below the rounding noise of equal values the deviation is zero.
    const double deviation = std::sqrt(variance);
    const bool constant = deviation <= 1e-12 * std::abs(mean);
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    if (std::isnan(value)) {
      result = kInfinity;
    } else if (constant && std::abs(value - mean) <= 1e-12 * std::abs(mean)) {
      result = 0.0;
    } else {
      result = constant ? std::copysign(kInfinity, value - mean) : (value - mean) / deviation;
    }
  }
  if (std::isfinite(value)) push_bounded(values_, value, window_);
  return result;
}

nlohmann::json ZScore::to_json() const {
  return {{"values", values_}};
}

void ZScore::from_json(const nlohmann::json& state) {
  values_ = state.at("values").get<std::vector<double>>();
}

void RecentShare::add(bool value) {
  push_bounded(values_, value, window_);
}

double RecentShare::share() const {
  if (values_.empty()) return 0;
  return static_cast<double>(std::count(values_.begin(), values_.end(), true)) /
         static_cast<double>(values_.size());
}

nlohmann::json RecentShare::to_json() const {
  return {{"values", values_}};
}

void RecentShare::from_json(const nlohmann::json& state) {
  values_ = state.at("values").get<std::vector<bool>>();
}

void PercentileSample::add(double value) {
  if (seen_++ % stride_ != 0) return;
  values_.push_back(value);
  if (values_.size() < capacity_) return;
  for (size_t i = 0; 2 * i < values_.size(); ++i) values_[i] = values_[2 * i];
  values_.resize((values_.size() + 1) / 2);
  stride_ *= 2;
}

std::optional<double> PercentileSample::percentile(double percent) const {
  if (values_.empty()) return std::nullopt;
  std::vector<double> sorted = values_;
  const auto count = static_cast<double>(sorted.size());
  const auto rank = static_cast<size_t>(std::clamp(std::ceil(percent / 100 * count), 1.0, count));
  const auto nth = sorted.begin() + static_cast<std::ptrdiff_t>(rank - 1);
  std::nth_element(sorted.begin(), nth, sorted.end());
  return *nth;
}

nlohmann::json PercentileSample::to_json() const {
  return {{"seen", seen_}, {"stride", stride_}, {"values", values_}};
}

void PercentileSample::from_json(const nlohmann::json& state) {
  seen_ = state.at("seen").get<uint64_t>();
  stride_ = state.at("stride").get<uint64_t>();
  values_ = state.at("values").get<std::vector<double>>();
}

void TimeLeft::add_step(double seconds) {
  push_bounded(recent_, seconds, window_);
  step_seconds_ += seconds;
}

void TimeLeft::add_other(double seconds) {
  other_seconds_ += seconds;
}

std::optional<double> TimeLeft::seconds(int64_t steps_left) const {
  if (recent_.empty()) return std::nullopt;
  std::vector<double> sorted = recent_;
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  const double overhead = step_seconds_ > 0 ? other_seconds_ / step_seconds_ : 0;
  return static_cast<double>(std::max<int64_t>(0, steps_left)) * *middle * (1 + overhead);
}

}  // namespace engine
