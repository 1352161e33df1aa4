// A mark in a stream's queue that the host can wait for, without waiting for what comes behind it.
#pragma once

#include "kernels/api/operations.h"

namespace engine {

// Must not outlive its stream.
class Event {
 public:
  explicit Event(const kernels::Stream& stream)
      : stream_(stream), event_(ops().create_event(stream)) {}
  ~Event() { ops().destroy_event(stream_, event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  // Marks this place in the queue.
  void record() { ops().record_event(stream_, event_); }
  // Returns when all that was queued before the last record() is done.
  void wait() { ops().wait_event(stream_, event_); }

 private:
  const kernels::Operations& ops() const { return kernels::operations(stream_); }

  kernels::Stream stream_;
  void* event_;
};

}  // namespace engine
