// The endless sequence of micro-batches of a run, from any position, made ahead on a thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

#include "engine/data/batcher.h"

namespace engine {

class BatchIterator {
 public:
  // The first next() returns the batch at `start`; what comes after it is what came after it in any
  // other run with the same batcher options. An index past its epoch is a programming mistake.
  // `prefetch` = batches made ahead; 0 = made in next() without a thread.
  BatchIterator(std::shared_ptr<const Batcher> batcher, DataPosition start, int prefetch = 2);
  BatchIterator(const BatchIterator&) = delete;
  BatchIterator& operator=(const BatchIterator&) = delete;
  ~BatchIterator();

  Batch next();
  // Of the batch that next() will return: what a checkpoint stores.
  DataPosition position() const { return position_; }
  // Time that next() has waited for the thread (or worked, without one) so far.
  double wait_seconds() const { return wait_seconds_; }

 private:
  Batch make(DataPosition position);
  static DataPosition after(const Batch& batch);
  void work(DataPosition position);

  std::shared_ptr<const Batcher> batcher_;
  DataPosition position_;
  double wait_seconds_ = 0;
  size_t depth_;
  EpochPlan plan_;  // of the epoch made last; the thread's, if there is one
  bool planned_ = false;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Batch> ready_;   // under mutex_
  std::exception_ptr error_;  // under mutex_
  bool stop_ = false;         // under mutex_
  std::thread thread_;
};

}  // namespace engine
