// What a device promises of its queue: recordings repeat arguments and read memory anew, events
// order the host's work, and nothing that waits can be recorded.
#include <cstring>
#include <stdexcept>

#include "tests/kernels/support.h"

namespace engine::kernels::testing {
namespace {

// A stream with a queue of its own.
class Queue {
 public:
  explicit Queue(DeviceType device) : stream_{.device = device} {
    stream_.handle = ops().create_stream(stream_);
  }
  ~Queue() { ops().destroy_stream(stream_); }
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  const Operations& ops() const { return operations(stream_); }
  Stream stream() const { return stream_; }

 private:
  Stream stream_;
};

ENGINE_KERNEL_TEST_SUITE(RecordingTest);

TEST_P(RecordingTest, ReplaysReadMemoryAndRepeatValues) {
  const Queue queue(stream().device);
  const Operations& ops = queue.ops();
  if (!ops.can_record) {
    EXPECT_THROW(ops.begin_recording(queue.stream()), std::logic_error);
    return;
  }
  constexpr int64_t kCount = 100;
  const DeviceArray x(queue.stream(), DType::f32, Values(kCount, 1.0));
  const DeviceArray y(queue.stream(), DType::f32, kCount), z(queue.stream(), DType::f32, kCount);
  const DeviceArray seed(queue.stream(), DType::i64, 1);
  const auto set_seed = [&](uint64_t value) {
    ops.copy_to_device(queue.stream(), seed.data(), &value, sizeof value);
  };
  const auto drop = [&](void* to, Scalar<uint64_t> with) {
    ops.dropout(queue.stream(), {.count = kCount, .x = x.data(), .y = to, .p = 0.5f, .seed = with});
  };
  const auto expected = [&](uint64_t with) {
    const DeviceArray fresh(queue.stream(), DType::f32, kCount);
    drop(fresh.data(), with);
    return fresh.values();
  };

  ops.begin_recording(queue.stream());
  drop(y.data(), Scalar<uint64_t>::at(seed.as<uint64_t>()));
  drop(z.data(), 3);
  ops.add(queue.stream(), {.a = y.data(), .b = z.data(), .out = z.data(), .count = kCount});
  ops.set_zero(queue.stream(), x.data(), sizeof(float));
  ops.copy(queue.stream(), y.data(), x.data(), sizeof(float));
  void* const recording = ops.end_recording(queue.stream());
  EXPECT_TRUE(std::isnan(y.values()[5])) << "nothing has run yet";

  Values one(kCount, 1.0);
  for (const uint64_t s : {7, 8}) {
    set_seed(s);
    ops.copy_to_device(queue.stream(), x.data(), std::vector<float>(kCount, 1.0f).data(),
                       kCount * sizeof(float));
    const Values by_memory = expected(s), by_value = expected(3);
    ops.replay(queue.stream(), recording);
    Values sum = by_memory;
    for (int64_t i = 0; i < kCount; ++i) sum[i] += by_value[i];
    Values first = by_memory;
    first[0] = 0;
    expect_equal(y.values(), first, "seed from memory");
    expect_equal(z.values(), sum, "recorded in order");
  }
  ops.release_recording(queue.stream(), recording);
}

TEST_P(RecordingTest, WhatTheHostTakesPartInCannotBeRecorded) {
  const Queue queue(stream().device);
  const Operations& ops = queue.ops();
  if (!ops.can_record) return;
  const DeviceArray x(queue.stream(), DType::f32, Values(4, 1.0));
  float host[4] = {};
  const auto fails = [&](const auto& call) {
    ops.begin_recording(queue.stream());
    EXPECT_THROW(call(), std::logic_error);
    ops.cancel_recording(queue.stream());
  };
  fails([&] { ops.copy_to_device(queue.stream(), x.data(), host, sizeof host); });
  fails([&] { ops.copy_to_host(queue.stream(), host, x.data(), sizeof host); });
  fails([&] { ops.copy_to_host_async(queue.stream(), host, x.data(), sizeof host); });
  fails([&] { ops.synchronize(queue.stream()); });
  fails([&] { ops.begin_recording(queue.stream()); });
  // and the queue goes on as before
  expect_equal(x.values(), Values(4, 1.0), "x");
}

TEST_P(RecordingTest, EventsPassWhenWhatIsBeforeThemIsDone) {
  const Queue queue(stream().device);
  const Operations& ops = queue.ops();
  const auto pinned = static_cast<float*>(ops.allocate_pinned(queue.stream(), sizeof(float)));
  const DeviceArray x(queue.stream(), DType::f32, 1), y(queue.stream(), DType::f32, 1);
  void* const event = ops.create_event(queue.stream());
  *pinned = 1.0f;
  ops.copy_to_device(queue.stream(), x.data(), pinned, sizeof(float));
  ops.record_event(queue.stream(), event);
  ops.wait_event(queue.stream(), event);
  *pinned = 2.0f;  // the first copy is through with it
  ops.copy_to_device(queue.stream(), y.data(), pinned, sizeof(float));
  expect_equal(x.values(), {1.0}, "x");
  expect_equal(y.values(), {2.0}, "y");
  ops.destroy_event(queue.stream(), event);
  ops.release_pinned(queue.stream(), pinned);
}

}  // namespace
}  // namespace engine::kernels::testing
