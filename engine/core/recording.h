// Operations of a stream, noted once and run as often as wanted: a CUDA graph.
#pragma once

#include <functional>

#include "kernels/api/operations.h"

namespace engine {

// Must not outlive its stream; nor may a replay be under way when it goes.
class Recording {
 public:
  // Notes the operations that `body` queues, without running them. What `body` throws is thrown on,
  // and the stream goes on as before.
  Recording(const kernels::Stream& stream, const std::function<void()>& body) : stream_(stream) {
    ops().begin_recording(stream_);
    try {
      body();
      recording_ = ops().end_recording(stream_);
    } catch (...) {
      ops().cancel_recording(stream_);
      throw;
    }
  }
  ~Recording() { ops().release_recording(stream_, recording_); }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  void replay() const { ops().replay(stream_, recording_); }

 private:
  const kernels::Operations& ops() const { return kernels::operations(stream_); }

  kernels::Stream stream_;
  void* recording_ = nullptr;
};

}  // namespace engine
