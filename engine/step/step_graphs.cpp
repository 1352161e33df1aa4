#include "engine/step/step_graphs.h"

#include <algorithm>
#include <bit>

namespace engine {
namespace {

// Shapes that were counted and not recorded, at most.
constexpr size_t kMostShapes = 4096;

// The sequences of a language model's batch, rounded up (see the header). Classifiers have a result
// per sequence, encoder-decoder models two lists of them: those stay as they are.
Batch rounded_up(const Batch& batch) {
  Batch out = batch;
  const auto sequences = static_cast<size_t>(batch.num_sequences());
  out.cu_seqlens.resize(std::bit_ceil(sequences) + 1, batch.cu_seqlens.back());
  out.rows.resize(std::bit_ceil(sequences));
  constexpr int32_t kMultiple = 128;
  out.max_seqlen = (batch.max_seqlen + kMultiple - 1) / kMultiple * kMultiple;
  return out;
}

}  // namespace

StepGraphs::StepGraphs(Runtime& runtime, Model& model, bool enabled, const Limits& limits)
    : runtime_(runtime),
      model_(model),
      enabled_(enabled && runtime.ops().can_record),
      limits_(limits) {}

BatchInputs StepGraphs::upload(const Batch& batch, const ForwardOptions& options) {
  const bool round = model_.info().task == Task::causal_lm && batch.source.input_ids.empty();
  return upload_inputs(runtime_, model_, round ? rounded_up(batch) : batch, options.label_targets);
}

BatchLoss StepGraphs::eager(const BatchInputs& inputs, const ForwardOptions& options,
                            Shape* shape) {
  ++counts_.eager;
  uint64_t sites = 0;
  BatchLoss out = compute_batch(runtime_, model_, inputs, options, &sites);
  if (shape) {
    ++shape->seen;
    shape->dropout_sites = sites;
    shape->losses = out.losses.count();
  }
  return out;
}

StepGraphs::Slots StepGraphs::allocate(const Shape& shape) {
  Slots slots;
  const auto numbers = [&](int64_t count, DType dtype) {
    return runtime_.transient({count}, dtype, MemoryCategory::batch);
  };
  slots.losses = numbers(shape.losses, DType::f32);
  slots.grad_scale = numbers(1, DType::f32);
  if (shape.dropout_sites > 0) {
    slots.seeds = numbers(static_cast<int64_t>(shape.dropout_sites), DType::i64);
  }
  return slots;
}

void StepGraphs::upload_slots(const Slots& slots, const Shape& shape,
                              const ForwardOptions& options) {
  runtime_.upload(slots.grad_scale, &options.grad_scale.value);
  if (!slots.seeds) return;
  std::vector<uint64_t> seeds;
  for (uint64_t site = 0; site < shape.dropout_sites; ++site) {
    seeds.push_back(dropout_site_seed(options.graph.dropout_seed, site));
  }
  runtime_.upload(slots.seeds, seeds.data());
}

void StepGraphs::compute_into(const Slots& slots, const BatchInputs& inputs,
                              const ForwardOptions& options) {
  ForwardOptions from_memory = options;
  from_memory.grad_scale = kernels::Scalar<float>::at(slots.grad_scale.as<float>());
  if (slots.seeds) from_memory.graph.dropout_site_seeds = slots.seeds.as<uint64_t>();
  const BatchLoss out = compute_batch(runtime_, model_, inputs, from_memory);
  runtime_.ops().copy(runtime_.stream(), slots.losses.data(), out.losses.data(),
                      out.losses.bytes());
}

// Room for one more recording?
bool StepGraphs::make_room() {
  if (recordings_ < limits_.recordings) return true;
  auto oldest = shapes_.end();
  for (auto it = shapes_.begin(); it != shapes_.end(); ++it) {
    if (!it->second.recording) continue;
    if (oldest == shapes_.end() || it->second.last_used < oldest->second.last_used) oldest = it;
  }
  if (batches_ - oldest->second.last_used < limits_.stale) return false;
  runtime_.synchronize();  // it may be running
  shapes_.erase(oldest);
  --recordings_;
  return true;
}

BatchLoss StepGraphs::run(const Batch& batch, const ForwardOptions& options) {
  ++batches_;
  // Not from an empty arena: the addresses would not come again.
  const bool possible = enabled_ && options.graph.record && !options.graph.probe &&
                        !options.times && !options.answers &&
                        runtime_.memory().transient_bytes() == 0;
  if (!possible) {
    ++counts_.eager;
    return run_batch(runtime_, model_, batch, options);
  }
  const BatchInputs inputs = upload(batch, options);
  if (shapes_.size() > kMostShapes) {
    std::erase_if(shapes_, [](const auto& entry) { return !entry.second.recording; });
  }
  std::vector<int64_t> key = signature(inputs);
  auto found = shapes_.find(key);
  if (found == shapes_.end()) found = shapes_.emplace(key, Shape()).first;
  // Memory that is not of the arena has other addresses next time (and is none that the plan
  // foresaw).
  if (found->second.seen < limits_.eager_runs || runtime_.memory().unplanned_peak() > 0) {
    return eager(inputs, options, &found->second);
  }
  if (!found->second.recording && !make_room()) return eager(inputs, options, nullptr);

  Shape& shape = found->second;
  shape.last_used = batches_;
  const Slots slots = allocate(shape);
  upload_slots(slots, shape, options);
  if (!shape.recording) {
    shape.recording = std::make_unique<Recording>(runtime_.stream(),
                                                  [&] { compute_into(slots, inputs, options); });
    shape.out = slots.losses.data();
    ++recordings_;
    ++counts_.recorded;
  } else {
    ++counts_.replayed;
  }
  kernels::require(slots.losses.data() == shape.out, "StepGraphs: an address has changed");
  shape.recording->replay();
  return {.losses = slots.losses, .argmax = {}, .scores = {}};
}

void StepGraphs::rehearse(const Batch& batch, const ForwardOptions& options) {
  if (!enabled_) return;
  const BatchInputs inputs = upload(batch, options);
  Shape shape;
  eager(inputs, options, &shape);
  const Slots slots = allocate(shape);
  compute_into(slots, inputs, options);
}

}  // namespace engine
