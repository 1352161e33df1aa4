#include "engine/profile/timing.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>

namespace engine {

Timing timing_of(std::vector<double> seconds) {
  if (seconds.empty()) throw std::logic_error("timing_of: nothing was measured");
  std::sort(seconds.begin(), seconds.end());
  const size_t count = seconds.size();
  const double median =
      count % 2 == 1 ? seconds[count / 2] : (seconds[count / 2 - 1] + seconds[count / 2]) / 2;
  return {.median = median, .minimum = seconds.front(), .runs = static_cast<int>(count)};
}

Timing time_repeated(const std::function<void()>& body, const RepeatOptions& options) {
  using Clock = std::chrono::steady_clock;
  body();
  std::vector<double> seconds;
  double spent = 0;
  while (static_cast<int>(seconds.size()) < options.max_runs &&
         (static_cast<int>(seconds.size()) < options.min_runs || spent < options.min_seconds)) {
    const auto start = Clock::now();
    body();
    seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    spent += seconds.back();
  }
  return timing_of(std::move(seconds));
}

}  // namespace engine
