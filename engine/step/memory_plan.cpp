#include "engine/step/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/core/error.h"
#include "engine/optim/adamw.h"
#include "engine/step/step_graphs.h"

namespace engine {
namespace {

std::string gibibytes(size_t bytes) {
  const double gib = static_cast<double>(bytes) / (1 << 30);
  return gib < 0.1 ? fmt::format("{:.3f}", gib) : fmt::format("{:.1f}", gib);
}

MemoryPlan plan_of(Memory& memory) {
  return {memory.persistent_bytes(), memory.arena_peak(), memory.peak_breakdown()};
}

}  // namespace

namespace {

// Lengths of so many sequences: the longest first, the others share the rest.
std::vector<int64_t> example_lengths(int64_t tokens, int64_t sequences, int64_t longest) {
  std::vector<int64_t> lengths;
  for (int64_t s = 0, left = tokens; s < sequences && left > 0; ++s) {
    const int64_t others = sequences - s - 1;
    lengths.push_back(others == 0 ? left : std::min(longest, std::max<int64_t>(1, left - others)));
    left -= lengths.back();
  }
  return lengths;
}

}  // namespace

Batch example_batch(const BatchShape& shape) {
  Batch batch;
  batch.cu_seqlens.push_back(0);
  int64_t sequences = std::max<int64_t>(shape.sequences, 1);
  if (shape.source_tokens > 0) {
    // Every sequence has both parts.
    sequences = std::min({sequences, shape.tokens, shape.source_tokens});
    batch.source.cu_seqlens.push_back(0);
    for (const int64_t length :
         example_lengths(shape.source_tokens, sequences, shape.source_longest)) {
      Batch::Source& source = batch.source;
      source.input_ids.resize(source.input_ids.size() + static_cast<size_t>(length));
      source.cu_seqlens.push_back(static_cast<int32_t>(source.input_ids.size()));
      source.max_seqlen = std::max(source.max_seqlen, static_cast<int32_t>(length));
    }
  }
  for (const int64_t length : example_lengths(shape.tokens, sequences, shape.longest)) {
    for (int64_t t = 0; t < length; ++t) {
      batch.input_ids.push_back(0);
      batch.positions.push_back(static_cast<int32_t>(t));
      batch.targets.push_back(0);
    }
    batch.cu_seqlens.push_back(static_cast<int32_t>(batch.input_ids.size()));
    batch.labels.push_back(-1);
    batch.rows.push_back(static_cast<uint32_t>(batch.rows.size()));
    batch.max_seqlen = std::max(batch.max_seqlen, static_cast<int32_t>(length));
  }
  batch.num_targets = batch.num_tokens();
  return batch;
}

BatchShape largest_shape(const Batcher& batcher) {
  const Batch batch = batcher.largest_batch();
  const std::span<const uint32_t> lengths = batcher.dataset().all_sample_tokens();
  const uint32_t shortest = *std::min_element(lengths.begin(), lengths.end());
  const int64_t tokens = batch.num_tokens() + batch.num_source_tokens();
  const int64_t by_length = tokens / std::max<uint32_t>(shortest, 1);
  const int64_t limit = batcher.options().micro_batch_rows;
  BatchShape shape{
      .tokens = tokens,
      .sequences = std::max<int64_t>(
          {1, batch.num_sequences(), limit > 0 ? std::min(limit, by_length) : by_length}),
      .longest = batch.max_seqlen};
  if (batcher.dataset().pairs()) {
    const Batcher::LargestPair pair = batcher.largest_pair();
    shape.tokens = pair.target_tokens;
    shape.longest = pair.longest_target;
    shape.source_tokens = pair.source_tokens;
    shape.source_longest = pair.longest_source;
  }
  return shape;
}

MemoryPlan plan_training(const ModelFactory& make, const TrainingShape& shape) {
  Runtime runtime({.device = kernels::DeviceType::meta, .planned = shape.device});
  const std::unique_ptr<Model> model = make();
  model->parameters().allocate(runtime, shape.precision, ParameterSet::Purpose::training);
  model->prepare(runtime, shape.max_positions);
  AdamW optimizer(runtime, model->parameters(), shape.optimizer);
  const Graph::Options train{.recompute = shape.recompute, .precision = shape.precision};
  run_batch(runtime, *model, example_batch(shape.train), {.graph = train});
  StepGraphs(runtime, *model, shape.step_graphs)
      .rehearse(example_batch(shape.train), {.graph = train});
  optimizer.measure(1.0f);
  optimizer.step(0.0f);
  if (shape.evaluation.tokens > 0) {
    const Graph::Options evaluate{.record = false, .training = false, .precision = shape.precision};
    run_batch(runtime, *model, example_batch(shape.evaluation),
              {.graph = evaluate, .answers = true});
  }
  rehearse_generation(runtime, *model, shape.precision, shape.samples, shape.sample_options);
  return plan_of(runtime.memory());
}

MemoryPlan plan_inference(const ModelFactory& make, const InferenceShape& shape) {
  Runtime runtime({.device = kernels::DeviceType::meta, .planned = shape.device});
  const std::unique_ptr<Model> model = make();
  model->parameters().allocate(runtime, shape.precision, ParameterSet::Purpose::inference);
  model->prepare(runtime, shape.max_positions);
  const Graph::Options options{.record = false, .training = false, .precision = shape.precision};
  run_batch(runtime, *model, example_batch(shape.batch), {.graph = options, .answers = true});
  return plan_of(runtime.memory());
}

std::vector<MemoryAlternative> smaller_alternatives(const ModelFactory& make,
                                                    const TrainingShape& shape) {
  std::vector<MemoryAlternative> out;
  const auto consider = [&](const std::string& change, const TrainingShape& changed) {
    out.push_back({change, plan_training(make, changed)});
  };
  TrainingShape changed = shape;
  if (!shape.samples.empty()) {
    changed.samples.clear();
    consider("train.sample.every=0 (no samples)", changed);
    changed = shape;
  }
  if (shape.recompute == RecomputePolicy::none) {
    changed.recompute = RecomputePolicy::norms;
    consider("train.recompute=norms (same bits, a few % slower)", changed);
  }
  changed.recompute = RecomputePolicy::block;
  if (shape.recompute != RecomputePolicy::block) {
    consider("train.recompute=block (same bits, about a third slower)", changed);
  }
  // Smaller micro-batches with as much more accumulation: the same step.
  for (const int64_t divisor : {2, 4, 8, 16}) {
    if (shape.train.tokens / divisor < std::max<int64_t>(shape.train.longest, 1) ||
        shape.train.source_tokens / divisor < shape.train.source_longest) {
      break;
    }
    changed.train.tokens = shape.train.tokens / divisor;
    changed.train.source_tokens = shape.train.source_tokens / divisor;
    changed.train.sequences = std::max<int64_t>(1, shape.train.sequences / divisor);
    changed.evaluation = changed.train;
    consider(fmt::format("train.micro_batch_tokens={} train.accumulation=×{} train.recompute=block",
                         changed.train.tokens + changed.train.source_tokens, divisor),
             changed);
  }
  if (shape.precision.compute == DType::f32) {
    changed = shape;
    changed.precision = PrecisionPolicy::bf16();
    consider("train.precision=bf16 (other rounding)", changed);
  }
  if (shape.precision.compute == DType::bf16 && shape.precision.masters) {
    changed = shape;
    changed.precision = shape.precision.without_masters();
    consider("optimizer.stochastic_rounding=true (no fp32 master weights: other rounding)",
             changed);
  }
  return out;
}

std::string describe(const MemoryPlan& plan) {
  std::string text;
  for (int i = 0; i < kMemoryCategories; ++i) {
    if (plan.breakdown[i] == 0) continue;
    text += fmt::format("{}{} {}", text.empty() ? "" : " | ",
                        name_of(static_cast<MemoryCategory>(i)), gibibytes(plan.breakdown[i]));
  }
  return text + fmt::format(" = {} GiB", gibibytes(plan.total()));
}

void require_plan_fits(const MemoryPlan& plan, size_t limit, const std::string& limit_source,
                       const ModelFactory& make, const TrainingShape& shape) {
  if (plan.total() <= limit) return;
  Error error(ExitCode::out_of_memory, "MEM-PLAN",
              fmt::format("this run needs {} GiB, {} GiB are usable", gibibytes(plan.total()),
                          gibibytes(limit)));
  error.with("plan", describe(plan)).with("limit", limit_source);
  std::string fits;
  for (const MemoryAlternative& a : smaller_alternatives(make, shape)) {
    if (a.plan.total() > limit) continue;
    fits +=
        fmt::format("{}{}: {} GiB", fits.empty() ? "" : "\n", a.change, gibibytes(a.plan.total()));
  }
  error.fix(fits.empty() ? "none of the usual changes fits: a smaller model, or a larger machine"
                         : fits);
  error.with("note", "nothing was allocated; check again with --dry-run");
  throw error;
}

}  // namespace engine
