// How adversely the software GPU behaves, and which GPU it claims to be.
#include <atomic>
#include <cstdlib>
#include <mutex>

#include "kernels/simt/launch.h"

namespace engine::kernels::simt {
namespace {

Schedule initial_schedule() {
  const char* const text = std::getenv("ENGINE_SIMT_SCHEDULE");
  return text ? parse_schedule(text) : Schedule{};
}

std::mutex schedule_mutex;
Schedule& schedule_state() {
  static Schedule schedule = initial_schedule();
  return schedule;
}

std::atomic<int>& capability_state() {
  static std::atomic<int> capability = [] {
    const char* const text = std::getenv("ENGINE_SIMT_CAPABILITY");
    return text ? std::atoi(text) : 90;
  }();
  return capability;
}

}  // namespace

Schedule parse_schedule(const std::string& text) {
  if (text == "eager") return {Completion::eager, 0};
  if (text == "lazy") return {Completion::lazy, 0};
  if (text == "compare") return {Completion::compare, 0};
  if (text.starts_with("random:")) {
    const std::string digits = text.substr(7);
    if (!digits.empty() && digits.size() < 19 &&
        digits.find_first_not_of("0123456789") == std::string::npos) {
      return {Completion::random, std::stoull(digits)};
    }
  }
  throw std::invalid_argument(
      "schedule \"" + text + "\": there are eager, lazy, random:SEED (a whole number) and compare");
}

std::string to_string(const Schedule& schedule) {
  switch (schedule.completion) {
    case Completion::eager:
      return "eager";
    case Completion::lazy:
      return "lazy";
    case Completion::compare:
      return "compare";
    case Completion::random:
      break;
  }
  return "random:" + std::to_string(schedule.seed);
}

void set_schedule(const Schedule& schedule) {
  const std::lock_guard lock(schedule_mutex);
  schedule_state() = schedule;
}

Schedule current_schedule() {
  const std::lock_guard lock(schedule_mutex);
  return schedule_state();
}

void set_claimed_capability(int capability) {
  capability_state() = capability;
}

int claimed_capability() {
  return capability_state();
}

}  // namespace engine::kernels::simt
