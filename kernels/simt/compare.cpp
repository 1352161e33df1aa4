#include "kernels/simt/compare.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <string>
#include <vector>

#include "kernels/simt/machine.h"

namespace engine::kernels::simt {

const std::byte* watched_byte = nullptr;

namespace {

std::mutex writer_mutex;
std::string last_writer;

constexpr Schedule kSchedules[] = {{Completion::lazy, 0},
                                   {Completion::eager, 0},
                                   {Completion::random, 1},
                                   {Completion::random, 2},
                                   {Completion::random, 3}};

// All device memory. Nothing is allocated or freed while a launch runs.
class Snapshot {
 public:
  Snapshot() : allocations_(device_allocations()) {
    for (const DeviceAllocation& one : allocations_) contents_.emplace_back(one.begin, one.end);
  }
  void restore() const {
    for (size_t i = 0; i < allocations_.size(); ++i) {
      std::copy(contents_[i].begin(), contents_[i].end(),
                const_cast<std::byte*>(allocations_[i].begin));
    }
  }
  // Where memory is no longer what it was here: the first such byte, or null.
  const std::byte* first_difference(const DeviceAllocation*& allocation, std::byte& before) const {
    for (size_t i = 0; i < allocations_.size(); ++i) {
      const auto [there, here] =
          std::mismatch(contents_[i].begin(), contents_[i].end(), allocations_[i].begin);
      if (there == contents_[i].end()) continue;
      allocation = &allocations_[i];
      before = *there;
      return here;
    }
    return nullptr;
  }

 private:
  std::vector<DeviceAllocation> allocations_;
  std::vector<std::vector<std::byte>> contents_;
};

// Who writes this byte last under a schedule: "kernel ..., thread ...", or "" if nobody does.
std::string writer_of(const std::byte* byte, const Schedule& schedule,
                      const std::function<void(const Schedule&)>& run) {
  last_writer.clear();
  watched_byte = byte;
  try {
    run(schedule);
  } catch (...) {
    watched_byte = nullptr;
    throw;
  }
  watched_byte = nullptr;
  return last_writer;
}

}  // namespace

void note_watched_write() {
  const std::lock_guard lock(writer_mutex);
  last_writer = this_thread();
}

void run_and_compare(const char* kernel, const std::function<void(const Schedule&)>& run) {
  static std::mutex mutex;  // a launch at a time: memory is put back between its runs
  const std::lock_guard lock(mutex);
  const Snapshot before;
  run(kSchedules[0]);
  const Snapshot expected;
  for (const Schedule& schedule : kSchedules) {
    if (&schedule == kSchedules) continue;
    before.restore();
    run(schedule);
    const DeviceAllocation* allocation = nullptr;
    std::byte first{};
    const std::byte* const byte = expected.first_difference(allocation, first);
    if (!byte) continue;
    const auto second = static_cast<unsigned>(*byte);
    before.restore();
    std::string writer = writer_of(byte, schedule, run);
    if (writer.empty()) {
      before.restore();
      writer = writer_of(byte, kSchedules[0], run);
    }
    if (writer.empty()) writer = std::string("kernel ") + kernel;
    char text[256];
    std::snprintf(text, sizeof text,
                  ": the result depends on the schedule: byte %td of an allocation of %td bytes is "
                  "0x%02x under %s and 0x%02x under %s",
                  byte - allocation->begin, allocation->end - allocation->begin,
                  static_cast<unsigned>(first), to_string(kSchedules[0]).c_str(), second,
                  to_string(schedule).c_str());
    throw KernelFault(writer + text);
  }
}

}  // namespace engine::kernels::simt
