// The queues of the software GPU. A queue of its own (Stream::handle) runs its operations as the
// schedule says: eager at once; lazy (the default) no sooner than the host waits, so that the
// host's mistakes show, which a GPU forgives most of the time: pinned memory changed too early,
// results read too early, device memory followed; random at some moment between. A stream without a
// handle runs all at once. A queue can also record: operations are then noted, and run by each
// replay.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/api/types.h"

namespace engine::kernels::simt {

using Operation = std::function<void()>;

// Runs it in its turn. A fault of a kernel is thrown by whatever makes it run; what was queued
// behind it is dropped.
void submit(const Stream& stream, Operation operation);
// Runs all that waits.
void finish(const Stream& stream);

// Throws std::logic_error while the stream records.
void require_not_recording(const Stream& stream, const char* what);

// For tests: how often the host waited for a queue, in this process.
int64_t count_of_waits();
// Ranges of this thread go here from now on ("+name" where one begins, "-" where it ends); null:
// nowhere.
void set_range_log(std::vector<std::string>* log);

}  // namespace engine::kernels::simt
