#include "engine/data/batch_iterator.h"

#include <chrono>

namespace engine {

BatchIterator::BatchIterator(std::shared_ptr<const Batcher> batcher, DataPosition start,
                             int prefetch)
    : batcher_(std::move(batcher)),
      position_(start),
      depth_(static_cast<size_t>(prefetch > 0 ? prefetch : 0)) {
  if (depth_ > 0) thread_ = std::thread([this, start] { work(start); });
}

BatchIterator::~BatchIterator() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Batch BatchIterator::make(DataPosition position) {
  if (!planned_ || plan_.epoch != position.epoch) {
    plan_ = batcher_->plan(position.epoch);
    planned_ = true;
  }
  return batcher_->batch(plan_, position.index);
}

DataPosition BatchIterator::after(const Batch& batch) {
  if (batch.last_in_epoch) return {batch.position.epoch + 1, 0};
  return {batch.position.epoch, batch.position.index + 1};
}

void BatchIterator::work(DataPosition position) {
  try {
    while (true) {
      Batch batch = make(position);
      position = after(batch);
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stop_ || ready_.size() < depth_; });
      if (stop_) return;
      ready_.push_back(std::move(batch));
      lock.unlock();
      changed_.notify_all();
    }
  } catch (...) {
    {
      const std::lock_guard lock(mutex_);
      error_ = std::current_exception();
    }
    changed_.notify_all();
  }
}

Batch BatchIterator::next() {
  const auto start = std::chrono::steady_clock::now();
  Batch batch;
  if (depth_ == 0) {
    batch = make(position_);
  } else {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !ready_.empty() || error_; });
    if (ready_.empty()) std::rethrow_exception(error_);
    batch = std::move(ready_.front());
    ready_.pop_front();
    lock.unlock();
    changed_.notify_all();
  }
  position_ = after(batch);
  wait_seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return batch;
}

}  // namespace engine
