// Names for profilers (Nsight Systems) of what the host queues while one lives. They nest. Nearly
// free when nobody listens, and nothing at all on the CPU.
#pragma once

#include <cstdio>

#include "kernels/api/operations.h"

namespace engine {

class ProfileRange {
 public:
  ProfileRange(const kernels::Operations& ops, const char* name) : ops_(ops) {
    ops_.begin_range(name);
  }
  // "layer 7"
  ProfileRange(const kernels::Operations& ops, const char* name, int64_t number) : ops_(ops) {
    char text[64];
    std::snprintf(text, sizeof text, "%s %lld", name, static_cast<long long>(number));
    ops_.begin_range(text);
  }
  ~ProfileRange() { ops_.end_range(); }
  ProfileRange(const ProfileRange&) = delete;
  ProfileRange& operator=(const ProfileRange&) = delete;

 private:
  const kernels::Operations& ops_;
};

}  // namespace engine
