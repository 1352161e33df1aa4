#include "engine/optim/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>

#include "engine/core/error.h"

namespace engine {
namespace {

constexpr double kDefaultDecayRatio = 0.1;

int64_t resolve(const std::optional<int64_t>& steps, const std::optional<double>& ratio,
                double default_ratio, int64_t total_steps) {
  return steps ? *steps : steps_from_ratio(ratio.value_or(default_ratio), total_steps);
}

}  // namespace

int64_t steps_from_ratio(double ratio, int64_t total_steps) {
  return static_cast<int64_t>(std::ceil(static_cast<double>(total_steps) * ratio));
}

Schedule::Schedule(const ScheduleConfig& config, int64_t total_steps)
    : config_(config),
      total_steps_(total_steps),
      warmup_steps_(resolve(config.warmup_steps, config.warmup_ratio, 0.0, total_steps)) {
  if (config.type != ScheduleType::wsd) return;
  decay_steps_ = resolve(config.decay_steps, config.decay_ratio, kDefaultDecayRatio, total_steps);
  if (warmup_steps_ + decay_steps_ <= total_steps) return;
  throw Error(
      ExitCode::usage, "CONF-SCHEDULE",
      fmt::format("the learning-rate schedule is longer than the run of {} steps", total_steps))
      .where("schedule.type = wsd")
      .found(fmt::format("{} warm-up + {} decay = {} steps", warmup_steps_, decay_steps_,
                         warmup_steps_ + decay_steps_))
      .fix("lower schedule.warmup_steps or schedule.decay_steps, or train for longer");
}

double Schedule::warmup(int64_t completed_steps) const {
  const int64_t numerator =
      completed_steps + (config_.warmup_start == WarmupStart::one_over_w ? 1 : 0);
  return static_cast<double>(numerator) / static_cast<double>(std::max<int64_t>(1, warmup_steps_));
}

double Schedule::multiplier(int64_t completed_steps) const {
  const bool wsd = config_.type == ScheduleType::wsd;
  if (completed_steps < warmup_steps_) {
    return wsd ? floored(warmup(completed_steps)) : warmup(completed_steps);
  }
  const int64_t begin = wsd ? total_steps_ - decay_steps_ : warmup_steps_;
  if (completed_steps < begin) return 1.0;
  const int64_t length = std::max<int64_t>(1, total_steps_ - begin);
  // Clamped: the cosine of Hugging Face rises again after the last step.
  const int64_t into = std::min(completed_steps - begin, length);
  const double progress = static_cast<double>(into) / static_cast<double>(length);
  const auto cosine = [&](double cycles) {
    return 0.5 * (1.0 + std::cos(std::numbers::pi * cycles * 2.0 * progress));
  };
  // The remaining steps over the length, not 1 - progress: the same digits as Hugging Face.
  const double linear = static_cast<double>(length - into) / static_cast<double>(length);
  switch (config_.type) {
    case ScheduleType::constant:
      return 1.0;
    case ScheduleType::linear:
      return floored(linear);
    case ScheduleType::cosine:
      return std::max(0.0, floored(cosine(config_.num_cycles)));
    case ScheduleType::wsd:
      switch (config_.decay_shape) {
        case DecayShape::linear:
          return floored(linear);
        case DecayShape::cosine:
          return floored(cosine(0.5));
        case DecayShape::sqrt:
          return floored(1.0 - std::sqrt(progress));
      }
  }
  throw std::logic_error("unknown schedule type");
}

}  // namespace engine
