// Micro-batches: which samples go together in an epoch, and their tokens as one flat list.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/config/train_config.h"
#include "engine/data/batch.h"
#include "engine/data/dataset.h"
#include "engine/data/packing.h"

namespace engine {

struct BatchOptions {
  // packed: best-fit decreasing into micro_batch_tokens. rows, stream: consecutive samples up to
  // micro_batch_rows and micro_batch_tokens, whichever is reached first.
  Packing packing = Packing::packed;
  int64_t micro_batch_tokens = 0;  // 0 = no limit (not for packed); N never exceeds it
  int64_t micro_batch_rows = 0;    // 0 = no limit (always for packed)
  // rows with micro_batch_rows alone: leave out the last micro-batch of an epoch if it is smaller.
  bool drop_last = false;
  // seeded: samples are permuted, packed, and the bins permuted, anew in every epoch.
  // torch: the order of torch.randperm seeded with seed + epoch, as the HF Trainer has it; with
  // packed, bins are made once in file order and permuted.
  Shuffle shuffle = Shuffle::seeded;
  uint64_t seed = 42;
  // Ranks take micro-batches in turn: index i of rank r is micro-batch i · num_ranks + r of all.
  // Where the last round has too few, a rank gets an empty batch (N = 0), and no row counts twice.
  uint32_t rank = 0, num_ranks = 1;
  // Pairs: the decoder's first input.
  int32_t decoder_start_id = 0;
};

// The micro-batches of one epoch, over all ranks, as lists of samples.
struct EpochPlan {
  uint64_t epoch = 0;
  Bins micro_batches;
};

class Batcher {
 public:
  // Throws DATA-BUDGET (exit code usage) when the longest sample does not fit the token budget.
  Batcher(std::shared_ptr<const Dataset> dataset, const BatchOptions& options);

  // Depends on the dataset, the options and the epoch, on nothing else. O(n log n).
  EpochPlan plan(uint64_t epoch) const;

  // Micro-batches of one rank in the epoch of the plan: ceil(micro-batches / ranks). It is the same
  // in every epoch, except for rows with both limits.
  uint64_t num_batches(const EpochPlan& plan) const;
  // Batch `index` of this rank.
  Batch batch(const EpochPlan& plan, uint64_t index) const;
  // Σ num_targets of batches [begin, end) over all ranks: the denominator of a step's loss, known
  // before the step.
  int64_t num_targets(const EpochPlan& plan, uint64_t begin, uint64_t end) const;

  // The largest micro-batch that any epoch can have: most tokens, then longest sequence. (For
  // packed and stream one of the plan; for rows the longest samples together.) Its rows may
  // not be together in any epoch; it exists to find out whether memory suffices.
  Batch largest_batch() const;

  // Pairs: the most tokens of source, and the most of targets, that a micro-batch of any epoch can
  // have. Not both at once: their sum may exceed the budget.
  struct LargestPair {
    int64_t source_tokens = 0, target_tokens = 0;
    int64_t longest_source = 0, longest_target = 0;
  };
  LargestPair largest_pair() const;

  const Dataset& dataset() const { return *dataset_; }
  const BatchOptions& options() const { return options_; }

 private:
  std::vector<uint32_t> sample_order(uint64_t epoch) const;
  Bins group(std::span<const uint32_t> order) const;
  Batch assemble(std::span<const uint32_t> samples) const;

  std::shared_ptr<const Dataset> dataset_;
  BatchOptions options_;
};

// Section train of a config as options.
BatchOptions batch_options(const TrainConfig& config);
DatasetOptions dataset_options(const TrainConfig& config, RowSubset subset);

// Optimizer steps of an epoch with so many micro-batches per rank: ceil, the last step of an epoch
// may accumulate fewer. As the HF Trainer counts; at least 1.
int64_t steps_per_epoch(int64_t micro_batches, int64_t accumulation);
// max_steps if it is > 0, else ceil(epochs · steps_per_epoch).
int64_t total_steps(double epochs, int64_t steps_per_epoch, int64_t max_steps);

}  // namespace engine
