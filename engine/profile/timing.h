// Time of something that is repeated.
#pragma once

#include <functional>
#include <vector>

namespace engine {

struct Timing {
  double median = 0;
  double minimum = 0;  // the run that other programs of the machine disturbed least
  int runs = 0;
};

// Of a list of seconds, in any order; not empty.
Timing timing_of(std::vector<double> seconds);

struct RepeatOptions {
  int min_runs = 5;
  int max_runs = 1000;
  double min_seconds = 0.3;  // go on until this much time is spent
};

// Runs `body` once unmeasured, then as `options` say.
Timing time_repeated(const std::function<void()>& body, const RepeatOptions& options = {});

}  // namespace engine
