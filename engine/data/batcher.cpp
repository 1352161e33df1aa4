#include "engine/data/batcher.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "engine/data/data_error.h"
#include "engine/data/shuffle.h"

namespace engine {
namespace {

constexpr int32_t kIgnore = -100;

// Streams of the generator: the permutations of one epoch must not be the same.
enum ShuffleStream : uint64_t { kSamples = 0, kBins = 1 };

std::vector<uint32_t> identity(uint32_t n) {
  std::vector<uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0u);
  return order;
}

Bins permuted(const Bins& bins, std::span<const uint32_t> order) {
  Bins result;
  result.items.reserve(bins.items.size());
  for (uint32_t bin : order) {
    const auto items = bins[bin];
    result.items.insert(result.items.end(), items.begin(), items.end());
    result.begin.push_back(result.items.size());
  }
  return result;
}

// The tokens of a pair. Where a target is not trained its id is the pad id already (row_parser.h).
void append_tokens_of_pair(const Segment& segment, const TokenisedRows& rows, int32_t start_id,
                           Batch& batch) {
  const auto ids = rows.ids();
  const auto kept = ids.subspan(segment.source_begin, segment.source_length - 1);
  std::vector<int32_t> source(kept.begin(), kept.end());
  source.push_back(ids[segment.source_last]);
  const auto labels = ids.subspan(segment.begin, segment.length);
  std::vector<int32_t> targets(labels.begin(), labels.end());
  for (uint32_t i = 0; i < segment.length; ++i) {
    if (!rows.trainable(segment.begin + i)) targets[i] = kIgnore;
  }
  append_pair(batch, source, shift_right(labels, start_id, start_id), targets);
}

void append(const Segment& segment, const TokenisedRows& rows, Batch& batch) {
  const auto ids = rows.ids().subspan(segment.begin, segment.length);
  batch.input_ids.insert(batch.input_ids.end(), ids.begin(), ids.end());
  const uint64_t end = segment.begin + segment.length + segment.continues;
  for (uint32_t i = 0; i < segment.length; ++i) {
    batch.positions.push_back(static_cast<int32_t>(i));
    const uint64_t next = segment.begin + i + 1;
    batch.targets.push_back(next < end && rows.trainable(next) ? rows.ids()[next] : kIgnore);
  }
  batch.cu_seqlens.push_back(static_cast<int32_t>(batch.input_ids.size()));
  batch.rows.push_back(segment.row);
  batch.labels.push_back(rows.label(segment.row));
  batch.max_seqlen = std::max(batch.max_seqlen, static_cast<int32_t>(segment.length));
  batch.num_targets += segment.num_targets;
}

}  // namespace

Batcher::Batcher(std::shared_ptr<const Dataset> dataset, const BatchOptions& options)
    : dataset_(std::move(dataset)), options_(options) {
  const bool packed = options.packing == Packing::packed;
  const int64_t tokens = options.micro_batch_tokens, rows = options.micro_batch_rows;
  if (tokens < 0 || rows < 0 || (packed && (tokens == 0 || rows != 0)) ||
      (tokens == 0 && rows == 0) || options.num_ranks == 0 || options.rank >= options.num_ranks ||
      (dataset_->packing() == Packing::stream) != (options.packing == Packing::stream) ||
      tokens > INT32_MAX) {
    throw std::logic_error("Batcher: options");
  }
  if (options.drop_last && (options.packing != Packing::rows || tokens > 0)) {
    throw std::logic_error("Batcher: drop_last needs packing rows without a token budget");
  }
  const auto lengths = dataset_->all_sample_tokens();
  const uint32_t longest = *std::max_element(lengths.begin(), lengths.end());
  if (tokens > 0 && longest > tokens) {
    Error error(ExitCode::usage, "DATA-BUDGET",
                "a sample has " + group_digits(longest) + " tokens, train.micro_batch_tokens is " +
                    group_digits(tokens));
    throw error.with("longest", dataset_->audit().longest_row)
        .fix("train.micro_batch_tokens=" + std::to_string((longest + 127) / 128 * 128) +
             ", or a smaller data.max_length");
  }
}

std::vector<uint32_t> Batcher::sample_order(uint64_t epoch) const {
  const uint32_t n = dataset_->num_samples();
  switch (options_.shuffle) {
    case Shuffle::seeded:
      return philox_permutation(n, options_.seed, epoch, kSamples);
    case Shuffle::torch:
      if (options_.packing != Packing::packed) return torch_permutation(n, options_.seed + epoch);
      break;  // the bins are permuted instead
    case Shuffle::none:
      break;
  }
  return identity(n);
}

Bins Batcher::group(std::span<const uint32_t> order) const {
  Bins result;
  result.items.assign(order.begin(), order.end());
  int64_t rows = 0, tokens = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const int64_t length = dataset_->sample_tokens(order[i]);
    const bool full =
        (options_.micro_batch_rows > 0 && rows == options_.micro_batch_rows) ||
        (options_.micro_batch_tokens > 0 && tokens + length > options_.micro_batch_tokens) ||
        tokens + length > INT32_MAX;  // cu_seqlens is 32-bit
    if (full) {
      result.begin.push_back(i);
      rows = tokens = 0;
    }
    ++rows;
    tokens += length;
  }
  if (options_.drop_last && rows < options_.micro_batch_rows && result.size() > 0) {
    result.items.resize(result.begin.back());
  } else {
    result.begin.push_back(order.size());
  }
  return result;
}

EpochPlan Batcher::plan(uint64_t epoch) const {
  EpochPlan plan;
  plan.epoch = epoch;
  const std::vector<uint32_t> order = sample_order(epoch);
  if (options_.packing != Packing::packed) {
    plan.micro_batches = group(order);
    return plan;
  }
  plan.micro_batches = best_fit_decreasing(order, dataset_->all_sample_tokens(),
                                           static_cast<uint32_t>(options_.micro_batch_tokens));
  const auto bins = static_cast<uint32_t>(plan.micro_batches.size());
  if (options_.shuffle == Shuffle::seeded) {
    plan.micro_batches =
        permuted(plan.micro_batches, philox_permutation(bins, options_.seed, epoch, kBins));
  } else if (options_.shuffle == Shuffle::torch) {
    plan.micro_batches =
        permuted(plan.micro_batches, torch_permutation(bins, options_.seed + epoch));
  }
  return plan;
}

uint64_t Batcher::num_batches(const EpochPlan& plan) const {
  return (plan.micro_batches.size() + options_.num_ranks - 1) / options_.num_ranks;
}

Batch Batcher::assemble(std::span<const uint32_t> samples) const {
  Batch batch;
  size_t tokens = 0, sequences = 0;
  const TokenisedRows& rows = dataset_->data().rows;
  if (dataset_->pairs()) {
    batch.cu_seqlens.push_back(0);
    batch.source.cu_seqlens.push_back(0);
    for (uint32_t sample : samples) {
      const Segment& segment = dataset_->segments(sample).front();
      append_tokens_of_pair(segment, rows, options_.decoder_start_id, batch);
      batch.rows.push_back(segment.row);
      batch.labels.push_back(rows.label(segment.row));
    }
    return batch;
  }
  for (uint32_t sample : samples) {
    tokens += dataset_->sample_tokens(sample);
    sequences += dataset_->segments(sample).size();
  }
  batch.input_ids.reserve(tokens);
  batch.positions.reserve(tokens);
  batch.targets.reserve(tokens);
  batch.cu_seqlens.reserve(sequences + 1);
  batch.cu_seqlens.push_back(0);
  for (uint32_t sample : samples) {
    for (const Segment& segment : dataset_->segments(sample)) {
      append(segment, rows, batch);
    }
  }
  return batch;
}

Batch Batcher::batch(const EpochPlan& plan, uint64_t index) const {
  const uint64_t count = num_batches(plan);
  if (index >= count) throw std::logic_error("Batcher::batch: index is past the end of the epoch");
  const uint64_t global = index * options_.num_ranks + options_.rank;
  Batch batch =
      global < plan.micro_batches.size() ? assemble(plan.micro_batches[global]) : assemble({});
  batch.position = {plan.epoch, index};
  batch.last_in_epoch = index + 1 == count;
  return batch;
}

int64_t Batcher::num_targets(const EpochPlan& plan, uint64_t begin, uint64_t end) const {
  int64_t targets = 0;
  const uint64_t last = std::min<uint64_t>(end * options_.num_ranks, plan.micro_batches.size());
  for (uint64_t i = begin * options_.num_ranks; i < last; ++i) {
    for (uint32_t sample : plan.micro_batches[i]) {
      for (const Segment& segment : dataset_->segments(sample)) targets += segment.num_targets;
    }
  }
  return targets;
}

Batch Batcher::largest_batch() const {
  const auto lengths = dataset_->all_sample_tokens();
  if (options_.packing == Packing::rows) {
    std::vector<uint32_t> order = identity(dataset_->num_samples()), chosen;
    std::stable_sort(order.begin(), order.end(),
                     [&](uint32_t a, uint32_t b) { return lengths[a] > lengths[b]; });
    int64_t room = options_.micro_batch_tokens > 0 ? options_.micro_batch_tokens : INT32_MAX;
    for (uint32_t sample : order) {
      if (options_.micro_batch_rows > 0 &&
          static_cast<int64_t>(chosen.size()) == options_.micro_batch_rows) {
        break;
      }
      if (lengths[sample] > room) continue;
      room -= lengths[sample];
      chosen.push_back(sample);
    }
    return assemble(chosen);
  }
  const EpochPlan first = plan(0);
  const auto size_of = [&](size_t i) {
    uint64_t tokens = 0;
    uint32_t longest = 0;
    for (uint32_t sample : first.micro_batches[i]) {
      tokens += lengths[sample];
      for (const Segment& segment : dataset_->segments(sample)) {
        longest = std::max({longest, segment.length, segment.source_length});
      }
    }
    return std::pair(tokens, longest);
  };
  size_t best = 0;
  for (size_t i = 1; i < first.micro_batches.size(); ++i) {
    if (size_of(i) > size_of(best)) best = i;
  }
  return assemble(first.micro_batches[best]);
}

Batcher::LargestPair Batcher::largest_pair() const {
  const uint32_t n = dataset_->num_samples();
  LargestPair largest;
  const auto most = [&](auto part, int64_t& longest) {
    for (uint32_t i = 0; i < n; ++i) longest = std::max(longest, part(i));
    std::vector<uint32_t> order = identity(n);
    int64_t bound = INT64_MAX;
    if (options_.micro_batch_rows > 0) {
      std::sort(order.begin(), order.end(),
                [&](uint32_t a, uint32_t b) { return part(a) > part(b); });
      bound = 0;
      for (int64_t i = 0; i < std::min<int64_t>(n, options_.micro_batch_rows); ++i) {
        bound += part(order[i]);
      }
    }
    if (options_.micro_batch_tokens > 0) {
      // Those samples first that have the largest share of it, and a part of the last one: no
      // choice of whole samples within the budget has more (the fractional knapsack).
      std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
        return part(a) * dataset_->sample_tokens(b) > part(b) * dataset_->sample_tokens(a);
      });
      int64_t room = options_.micro_batch_tokens, sum = 0;
      for (uint32_t i = 0; i < n && room > 0; ++i) {
        const int64_t tokens = dataset_->sample_tokens(order[i]);
        const int64_t taken = std::min(tokens, room);
        sum += (part(order[i]) * taken + tokens - 1) / tokens;
        room -= taken;
      }
      bound = std::min(bound, sum);
    }
    return bound;
  };
  const auto source = [&](uint32_t i) -> int64_t {
    return dataset_->segments(i).front().source_length;
  };
  const auto target = [&](uint32_t i) -> int64_t { return dataset_->segments(i).front().length; };
  largest.source_tokens = most(source, largest.longest_source);
  largest.target_tokens = most(target, largest.longest_target);
  return largest;
}

BatchOptions batch_options(const TrainConfig& config) {
  BatchOptions options;
  options.packing = config.data.packing;
  options.micro_batch_tokens = config.train.micro_batch_tokens.value_or(0);
  options.micro_batch_rows = config.train.micro_batch_rows.value_or(0);
  if (options.micro_batch_tokens == 0 && options.micro_batch_rows == 0) {
    (options.packing == Packing::rows ? options.micro_batch_rows : options.micro_batch_tokens) =
        options.packing == Packing::rows ? 8 : 8 * config.data.max_length;
  }
  options.shuffle = config.data.shuffle;
  options.seed = config.data_seed();
  return options;
}

DatasetOptions dataset_options(const TrainConfig& config, RowSubset subset) {
  DatasetOptions options;
  options.max_length = config.data.max_length;
  options.max_target_length = config.data.max_target_length.value_or(config.data.max_length);
  options.overflow = config.data.overflow;
  options.on_no_target = config.data.on_no_target;
  options.packing = config.data.packing;
  options.row_labels = config.model.task == ModelTask::sequence_classification;
  options.subset = subset;
  options.validation_fraction = config.data.validation_fraction.value_or(0);
  options.split_seed = config.data_seed();
  return options;
}

int64_t steps_per_epoch(int64_t micro_batches, int64_t accumulation) {
  if (micro_batches < 0 || accumulation < 1) throw std::logic_error("steps_per_epoch: arguments");
  return std::max<int64_t>(1, (micro_batches + accumulation - 1) / accumulation);
}

int64_t total_steps(double epochs, int64_t steps_per_epoch, int64_t max_steps) {
  if (max_steps > 0) return max_steps;
  return static_cast<int64_t>(std::ceil(epochs * static_cast<double>(steps_per_epoch)));
}

}  // namespace engine
