#include "kernels/simt/stream.h"

#include <atomic>
#include <deque>
#include <memory>
#include <stdexcept>

#include "kernels/cuda/cuda.h"
#include "kernels/simt/device_memory.h"
#include "kernels/simt/launch.h"

namespace engine::kernels::simt {
namespace {

using Recording = std::vector<Operation>;

struct Queue {
  std::deque<Operation> waiting;
  uint64_t done = 0;  // operations that have left the queue
  std::unique_ptr<Recording> recording;
  std::vector<void*> released;  // device memory that waiting operations may still use
  uint64_t random = 1;

  void run_until(uint64_t end) {
    while (done < end) {
      const Operation next = std::move(waiting.front());
      waiting.pop_front();
      ++done;
      try {
        next();
      } catch (...) {
        done += waiting.size();
        waiting.clear();
        throw;
      }
    }
    if (!waiting.empty()) return;
    for (void* data : released) free_device_memory(data);
    released.clear();
  }
  uint64_t end() const { return done + waiting.size(); }
  void push(Operation operation) {
    waiting.push_back(std::move(operation));
    const Schedule schedule = current_schedule();
    if (schedule.completion == Completion::lazy || schedule.completion == Completion::compare) {
      return;
    }
    if (schedule.completion == Completion::random) {
      random = (random ^ schedule.seed) * 0x9E3779B97F4A7C15ULL + 1;
      if (random >> 62 != 0) return;
    }
    run_until(end());
  }
};

Queue* queue_of(const Stream& stream) {
  return static_cast<Queue*>(stream.handle);
}

std::atomic<int64_t> waits = 0;
thread_local std::vector<std::string>* range_log = nullptr;

}  // namespace

void submit(const Stream& stream, Operation operation) {
  Queue* const queue = queue_of(stream);
  if (!queue) return operation();
  if (queue->recording) return queue->recording->push_back(std::move(operation));
  queue->push(std::move(operation));
}

void finish(const Stream& stream) {
  require_not_recording(stream, "waiting for the device");
  waits.fetch_add(1, std::memory_order_relaxed);
  if (Queue* const queue = queue_of(stream)) queue->run_until(queue->end());
}

void require_not_recording(const Stream& stream, const char* what) {
  const Queue* const queue = queue_of(stream);
  if (queue && queue->recording) {
    throw std::logic_error(std::string(what) + ": not while the stream records");
  }
}

int64_t count_of_waits() {
  return waits.load(std::memory_order_relaxed);
}

void set_range_log(std::vector<std::string>* log) {
  range_log = log;
}

void* create_stream(Stream) {
  return new Queue;
}

// What still waits is dropped: nobody has asked for it.
void destroy_stream(Stream stream) {
  Queue* const queue = queue_of(stream);
  if (!queue) return;
  for (void* data : queue->released) free_device_memory(data);
  delete queue;
}

// As a GPU's driver does, not before the operations that were queued are through with it.
void release(Stream stream, void* data) {
  Queue* const queue = queue_of(stream);
  if (queue && !queue->waiting.empty()) {
    queue->released.push_back(data);
  } else {
    free_device_memory(data);
  }
}

void* create_event(Stream) {
  return new uint64_t(0);
}

void record_event(Stream stream, void* event) {
  const Queue* const queue = queue_of(stream);
  *static_cast<uint64_t*>(event) = queue ? queue->end() : 0;
}

void wait_event(Stream stream, void* event) {
  waits.fetch_add(1, std::memory_order_relaxed);
  if (Queue* const queue = queue_of(stream)) queue->run_until(*static_cast<uint64_t*>(event));
}

void destroy_event(Stream, void* event) {
  delete static_cast<uint64_t*>(event);
}

void begin_recording(Stream stream) {
  Queue* const queue = queue_of(stream);
  require(queue && !queue->recording, "begin_recording: no queue, or one that records");
  queue->recording = std::make_unique<Recording>();
}

void* end_recording(Stream stream) {
  Queue* const queue = queue_of(stream);
  require(queue && queue->recording, "end_recording: the stream does not record");
  return queue->recording.release();
}

void cancel_recording(Stream stream) {
  if (Queue* const queue = queue_of(stream)) queue->recording.reset();
}

void replay(Stream stream, void* recording) {
  require_not_recording(stream, "replay");
  submit(stream, [operations = static_cast<const Recording*>(recording)] {
    for (const Operation& operation : *operations) operation();
  });
}

void release_recording(Stream, void* recording) {
  delete static_cast<Recording*>(recording);
}

void begin_range(const char* name) {
  if (range_log) range_log->push_back(std::string("+") + name);
}

void end_range() {
  if (range_log) range_log->push_back("-");
}

}  // namespace engine::kernels::simt
