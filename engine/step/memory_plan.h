// What a training run will need, found by running its step on the meta device: the same model code,
// the same allocations, no memory and no arithmetic.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/config/train_config.h"
#include "engine/data/batcher.h"
#include "engine/generate/generator.h"
#include "engine/step/run_batch.h"

namespace engine {

// The shape of the largest micro-batch a run may see.
struct BatchShape {
  int64_t tokens = 0;
  int64_t sequences = 1;
  int64_t longest = 0;  // tokens of the longest sequence
  // Encoder-decoder models: those above are of the decoder, these of the encoder.
  int64_t source_tokens = 0;
  int64_t source_longest = 0;
};

// The largest one that a batcher makes: the token budget, and as many sequences as could fill it.
// Pairs: the most of sources and the most of targets, though both do not come together.
BatchShape largest_shape(const Batcher& batcher);

// A batch of that shape with made-up content.
Batch example_batch(const BatchShape& shape);

struct MemoryPlan {
  size_t persistent = 0;      // weights, masters, moments, gradients
  size_t arena = 0;           // activations and workspaces at their highest
  MemoryBreakdown breakdown;  // by category, at the peak
  size_t total() const { return persistent + arena; }
};

struct TrainingShape {
  PrecisionPolicy precision;
  RecomputePolicy recompute = RecomputePolicy::none;
  BatchShape train, evaluation;
  int64_t max_positions = 0;  // for position tables
  OptimizerConfig optimizer;
  bool step_graphs = false;  // micro-batches are recorded (step_graphs.h)
  kernels::DeviceType device = kernels::DeviceType::cpu;  // whose workspaces are counted
  // Texts that are generated between steps; may be empty.
  std::vector<GenerationRequest> samples;
  GenerationOptions sample_options;
};

using ModelFactory = std::function<std::unique_ptr<Model>()>;

MemoryPlan plan_training(const ModelFactory& make, const TrainingShape& shape);
// Forward only, no gradients or optimizer state.
struct InferenceShape {
  PrecisionPolicy precision;
  BatchShape batch;
  int64_t max_positions = 0;
  kernels::DeviceType device = kernels::DeviceType::cpu;
};
MemoryPlan plan_inference(const ModelFactory& make, const InferenceShape& shape);

// Settings that would need less, each with what it needs, smallest change first.
struct MemoryAlternative {
  std::string change;  // "train.recompute=block"
  MemoryPlan plan;
};
std::vector<MemoryAlternative> smaller_alternatives(const ModelFactory& make,
                                                    const TrainingShape& shape);

// Throws Error MEM-PLAN (out_of_memory) with the breakdown and the alternatives that fit, when the
// plan needs more than `limit` bytes.
void require_plan_fits(const MemoryPlan& plan, size_t limit, const std::string& limit_source,
                       const ModelFactory& make, const TrainingShape& shape);

// "weights 0.9 | adam 3.7 | ... = 18.7 GiB"
std::string describe(const MemoryPlan& plan);

}  // namespace engine
