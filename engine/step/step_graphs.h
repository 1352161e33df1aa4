// Micro-batches of training as recordings (CUDA graphs): the computation of a batch whose shape
// comes again and again is recorded once and then replayed with one call instead of some hundred.
//
// What may differ between the replays of one recording lies in device memory, and is uploaded
// before: token ids, positions, targets, cu_seqlens, classes, the gradient scale, the seeds of
// dropout. All else that operations are given is the same by the key of the cache (signature() of
// run_batch.h): numbers of tokens and sequences, the longest sequence, and addresses. Addresses are
// the same because the arena is a function of the calls since it was last empty (memory.h): inputs
// come first, out of the empty arena, and the computation gives back all that it takes. A replay
// takes nothing: it writes where the recorded computation wrote, above its inputs, and nothing else
// lives there.
//
// So that shapes repeat although documents have different lengths, the number of sequences is
// rounded up with empty ones, and the longest length too: both only size grids.
//
// A shape runs eagerly twice before it is recorded: kernels are loaded, rival libraries have
// chosen, and rare shapes cost nothing. The bits are those of eager runs.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "engine/core/recording.h"
#include "engine/step/run_batch.h"

namespace engine {

class StepGraphs {
 public:
  struct Limits {
    int eager_runs = 2;      // of a shape, before it is recorded
    size_t recordings = 16;  // that are kept. More: the one that was not used for longest goes,
    int64_t stale = 256;     // if that is so many batches ago
  };

  // Not enabled: every batch runs as run_batch does.
  StepGraphs(Runtime& runtime, Model& model, bool enabled, const Limits& limits);
  StepGraphs(Runtime& runtime, Model& model, bool enabled)
      : StepGraphs(runtime, model, enabled, Limits()) {}

  // As run_batch with options.graph.record. The options but grad_scale and dropout_seed must be
  // those of every other call.
  BatchLoss run(const Batch& batch, const ForwardOptions& options);

  // What run() allocates when it records, for a plan; computes nothing on the meta device.
  void rehearse(const Batch& batch, const ForwardOptions& options);

  bool enabled() const { return enabled_; }
  struct Counts {
    int64_t eager = 0, recorded = 0, replayed = 0;
  };
  const Counts& counts() const { return counts_; }

 private:
  struct Shape {
    int seen = 0;
    uint64_t dropout_sites = 0;
    int64_t losses = 0;
    std::unique_ptr<Recording> recording;
    const void* out = nullptr;  // where it leaves the losses
    int64_t last_used = 0;
  };
  // What a recording reads and writes besides the inputs. Allocated in this order, always.
  struct Slots {
    Tensor losses, grad_scale, seeds;
  };

  BatchInputs upload(const Batch& batch, const ForwardOptions& options);
  BatchLoss eager(const BatchInputs& inputs, const ForwardOptions& options, Shape* shape);
  Slots allocate(const Shape& shape);
  void upload_slots(const Slots& slots, const Shape& shape, const ForwardOptions& options);
  void compute_into(const Slots& slots, const BatchInputs& inputs, const ForwardOptions& options);
  bool make_room();

  Runtime& runtime_;
  Model& model_;
  bool enabled_;
  Limits limits_;
  std::map<std::vector<int64_t>, Shape> shapes_;
  size_t recordings_ = 0;
  int64_t batches_ = 0;
  Counts counts_;
};

}  // namespace engine
