// Packing, shuffling, micro-batches, resuming: every token of an epoch once, with its target.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "engine/data/batch_iterator.h"
#include "engine/data/batcher.h"
#include "engine/data/packing.h"
#include "engine/data/shuffle.h"
#include "tests/data/support.h"

namespace engine {
namespace {

using testing::data_of;
using testing::error_of;

using Ids = std::vector<int32_t>;

// Rows whose token ids say where they are: row · 1000 + position.
struct RandomRows {
  std::vector<Ids> ids;
  std::vector<std::vector<uint8_t>> trained;
};

RandomRows random_rows(uint32_t seed, int count, int max_length) {
  std::mt19937 random(seed);
  RandomRows rows;
  for (int row = 0; row < count; ++row) {
    const int length = 1 + static_cast<int>(random() % static_cast<uint32_t>(max_length));
    Ids ids;
    std::vector<uint8_t> trained;
    const uint32_t kind = random() % 4;  // all, prompt masked, holes, nothing
    const int prompt = static_cast<int>(random() % static_cast<uint32_t>(length));
    for (int i = 0; i < length; ++i) {
      ids.push_back(row * 1000 + i);
      trained.push_back(kind == 0   ? 1
                        : kind == 1 ? i >= prompt
                        : kind == 2 ? random() % 2
                                    : row % 5 != 0);
    }
    rows.ids.push_back(ids);
    rows.trained.push_back(trained);
  }
  return rows;
}

// Token id -> target over one epoch, written down from the rules alone.
std::map<int32_t, int32_t> expected_targets(const RandomRows& rows, const DatasetOptions& options) {
  std::map<int32_t, int32_t> result;
  for (size_t row = 0; row < rows.ids.size(); ++row) {
    const Ids& ids = rows.ids[row];
    const int length = static_cast<int>(ids.size());
    int begin = 0, end = length;  // kept
    const int limit = static_cast<int>(options.max_length);
    const bool cut = options.packing != Packing::stream && limit > 0 && length > limit;
    if (cut && options.overflow == Overflow::drop) continue;
    if (cut && options.overflow == Overflow::truncate_right) end = limit;
    if (cut && options.overflow == Overflow::truncate_left) begin = length - limit;
    std::map<int32_t, int32_t> kept;
    bool any = false;
    for (int i = begin; i < end; ++i) {
      const bool target = i + 1 < end && rows.trained[row][static_cast<size_t>(i + 1)];
      kept[ids[static_cast<size_t>(i)]] = target ? ids[static_cast<size_t>(i + 1)] : -100;
      any = any || target;
    }
    if (!any && options.on_no_target == OnNoTarget::drop) continue;
    if (cut && options.overflow == Overflow::split) {
      for (int at = 0; at < length; at += limit) {  // pieces without a target are left out
        bool piece_target = false;
        for (int i = at; i < std::min(at + limit, length); ++i) {
          piece_target = piece_target || kept[ids[static_cast<size_t>(i)]] != -100;
        }
        for (int i = at; i < std::min(at + limit, length) && !piece_target; ++i) {
          kept.erase(ids[static_cast<size_t>(i)]);
        }
      }
    }
    result.insert(kept.begin(), kept.end());
  }
  return result;
}

void check_batch(const Batch& batch, const BatchOptions& options, int64_t max_length,
                 std::map<int32_t, int32_t>& seen) {
  const auto n = static_cast<size_t>(batch.num_tokens());
  ASSERT_EQ(batch.positions.size(), n);
  ASSERT_EQ(batch.targets.size(), n);
  ASSERT_EQ(batch.cu_seqlens.size(), batch.rows.size() + 1);
  ASSERT_EQ(batch.labels.size(), batch.rows.size());
  ASSERT_EQ(batch.cu_seqlens.front(), 0);
  ASSERT_EQ(batch.cu_seqlens.back(), batch.num_tokens());
  if (options.micro_batch_tokens > 0) {
    ASSERT_LE(batch.num_tokens(), options.micro_batch_tokens);
  }
  if (options.micro_batch_rows > 0 && options.packing == Packing::rows) {
    ASSERT_LE(batch.num_sequences(), options.micro_batch_rows);
  }
  int32_t longest = 0;
  int64_t targets = 0;
  for (size_t s = 0; s + 1 < batch.cu_seqlens.size(); ++s) {
    const int32_t begin = batch.cu_seqlens[s], end = batch.cu_seqlens[s + 1];
    ASSERT_LT(begin, end);
    longest = std::max(longest, end - begin);
    if (max_length > 0) {
      ASSERT_LE(end - begin, max_length);
    }
    for (int32_t i = begin; i < end; ++i) {
      const auto t = static_cast<size_t>(i);
      ASSERT_EQ(batch.positions[t], i - begin);
      ASSERT_EQ(batch.input_ids[t], batch.input_ids[static_cast<size_t>(begin)] + (i - begin));
      ASSERT_EQ(static_cast<uint32_t>(batch.input_ids[t] / 1000), batch.rows[s]);
      ASSERT_TRUE(seen.emplace(batch.input_ids[t], batch.targets[t]).second) << "token twice";
      targets += batch.targets[t] != -100;
    }
  }
  ASSERT_EQ(batch.max_seqlen, longest);
  ASSERT_EQ(batch.num_targets, targets);
}

TEST(Epoch, EveryTokenOnceWithItsTargetInEveryMode) {
  int checked = 0;
  for (uint32_t seed = 0; seed < 12; ++seed) {
    const RandomRows rows = random_rows(seed, 60 + static_cast<int>(seed) * 7, 40);
    const auto data = data_of(rows.ids, rows.trained);
    for (Packing packing : {Packing::packed, Packing::rows, Packing::stream}) {
      for (Overflow overflow :
           {Overflow::drop, Overflow::truncate_right, Overflow::truncate_left, Overflow::split}) {
        for (OnNoTarget on_no_target : {OnNoTarget::drop, OnNoTarget::keep}) {
          DatasetOptions options;
          options.packing = packing;
          options.max_length = seed % 3 == 0 && packing != Packing::stream ? 0 : 5 + seed * 3;
          options.overflow = overflow;
          options.on_no_target = on_no_target;
          const auto dataset = std::make_shared<Dataset>(data, options);
          const auto expected = expected_targets(rows, options);
          BatchOptions batch_options;
          batch_options.packing = packing;
          batch_options.micro_batch_tokens = 64 + seed;
          if (packing == Packing::rows) {
            batch_options.micro_batch_rows = 4;
            if (seed % 2) batch_options.micro_batch_tokens = 0;
          }
          batch_options.shuffle =
              std::array{Shuffle::seeded, Shuffle::torch, Shuffle::none}[seed % 3];
          batch_options.num_ranks = 1 + seed % 4;
          for (uint64_t epoch : {0, 1}) {
            std::map<int32_t, int32_t> seen;
            int64_t targets = 0;
            for (uint32_t rank = 0; rank < batch_options.num_ranks; ++rank) {
              batch_options.rank = rank;
              const Batcher batcher(dataset, batch_options);
              const EpochPlan plan = batcher.plan(epoch);
              for (uint64_t i = 0; i < batcher.num_batches(plan); ++i) {
                const Batch batch = batcher.batch(plan, i);
                check_batch(batch, batch_options, options.max_length, seen);
                if (HasFatalFailure()) return;
                targets += batch.num_targets;
              }
              if (rank == 0) {
                EXPECT_EQ(batcher.num_targets(plan, 0, batcher.num_batches(plan)),
                          static_cast<int64_t>(dataset->audit().targets));
              }
            }
            ASSERT_EQ(seen, expected)
                << "seed " << seed << " packing " << int(packing) << " overflow " << int(overflow);
            EXPECT_EQ(dataset->audit().tokens, expected.size());
            EXPECT_EQ(targets, static_cast<int64_t>(dataset->audit().targets));
            ++checked;
          }
        }
      }
    }
  }
  EXPECT_EQ(checked, 12 * 3 * 4 * 2 * 2);
}

// TRL's best-fit-decreasing packing: lengths [5, 2, 3, 1] with capacity 4.
struct TrlCase {
  Overflow overflow;
  std::vector<Ids> input_ids, lengths;
};

TEST(Packing, SameBinsAsTrl) {
  const std::vector<Ids> rows = {{1, 2, 3, 4, 5}, {6, 7}, {8, 9, 10}, {11}};
  const TrlCase cases[] = {
      {Overflow::truncate_right, {{1, 2, 3, 4}, {8, 9, 10, 11}, {6, 7}}, {{4}, {3, 1}, {2}}},
      {Overflow::split, {{1, 2, 3, 4}, {8, 9, 10, 5}, {6, 7, 11}}, {{4}, {3, 1}, {2, 1}}}};
  for (const TrlCase& expected : cases) {
    // The packing alone: TRL keeps pieces without a target, which a Dataset leaves out.
    std::vector<uint32_t> lengths = {4};
    std::vector<Ids> samples = {{1, 2, 3, 4}};
    if (expected.overflow == Overflow::split) {
      lengths.push_back(1);
      samples.push_back({5});
    }
    for (size_t row = 1; row < rows.size(); ++row) {
      lengths.push_back(static_cast<uint32_t>(rows[row].size()));
      samples.push_back(rows[row]);
    }
    std::vector<uint32_t> order(lengths.size());
    std::iota(order.begin(), order.end(), 0u);
    const Bins bins = best_fit_decreasing(order, lengths, 4);
    std::vector<Ids> input_ids, sequence_lengths;
    for (size_t bin = 0; bin < bins.size(); ++bin) {
      input_ids.emplace_back();
      sequence_lengths.emplace_back();
      for (uint32_t item : bins[bin]) {
        input_ids.back().insert(input_ids.back().end(), samples[item].begin(), samples[item].end());
        sequence_lengths.back().push_back(static_cast<int32_t>(lengths[item]));
      }
    }
    EXPECT_EQ(input_ids, expected.input_ids);
    EXPECT_EQ(sequence_lengths, expected.lengths);
  }
  // And through dataset and batcher, where rows of one token are kept on request.
  DatasetOptions options;
  options.max_length = 4;
  options.overflow = Overflow::truncate_right;
  options.on_no_target = OnNoTarget::keep;
  BatchOptions batch_options;
  batch_options.micro_batch_tokens = 4;
  batch_options.shuffle = Shuffle::none;
  const Batcher batcher(std::make_shared<Dataset>(data_of(rows), options), batch_options);
  const EpochPlan plan = batcher.plan(0);
  ASSERT_EQ(batcher.num_batches(plan), 3u);
  const Batch second = batcher.batch(plan, 1);
  EXPECT_EQ(second.input_ids, (Ids{8, 9, 10, 11}));
  EXPECT_EQ(second.cu_seqlens, (Ids{0, 3, 4}));
  EXPECT_EQ(second.positions, (Ids{0, 1, 2, 0}));
  EXPECT_EQ(second.targets, (Ids{9, 10, -100, -100}));
  EXPECT_EQ(second.rows, (std::vector<uint32_t>{2, 3}));
}

// The rule as a plain scan over all open bins, against the O(n log n) form.
TEST(Packing, AgreesWithThePlainRule) {
  std::mt19937 random(3);
  for (int trial = 0; trial < 200; ++trial) {
    const uint32_t capacity = 1 + random() % 60;
    std::vector<uint32_t> lengths(random() % 150), order(lengths.size());
    for (uint32_t& length : lengths) length = 1 + random() % capacity;
    std::iota(order.begin(), order.end(), 0u);
    std::shuffle(order.begin(), order.end(), random);
    std::vector<uint32_t> sorted = order;
    std::stable_sort(sorted.begin(), sorted.end(),
                     [&](uint32_t a, uint32_t b) { return lengths[a] > lengths[b]; });
    struct Bin {
      uint32_t room;
      int since;  // when it last got its room
      std::vector<uint32_t> items;
    };
    std::vector<Bin> expected;
    int now = 0;
    for (uint32_t item : sorted) {
      Bin* best = nullptr;
      for (Bin& bin : expected) {
        if (bin.room < lengths[item]) continue;
        if (!best || std::pair(bin.room, bin.since) < std::pair(best->room, best->since)) {
          best = &bin;
        }
      }
      if (!best) best = &expected.emplace_back(Bin{capacity, 0, {}});
      best->room -= lengths[item];
      best->since = ++now;
      best->items.push_back(item);
    }
    const Bins bins = best_fit_decreasing(order, lengths, capacity);
    ASSERT_EQ(bins.size(), expected.size());
    for (size_t bin = 0; bin < bins.size(); ++bin) {
      const auto items = bins[bin];
      ASSERT_EQ(std::vector<uint32_t>(items.begin(), items.end()), expected[bin].items);
    }
  }
}

TEST(Shuffle, PublishedPermutationsOfTorch) {
  using Order = std::vector<uint32_t>;
  EXPECT_EQ(torch_permutation(10, 0), (Order{4, 1, 7, 5, 3, 9, 0, 8, 6, 2}));
  EXPECT_EQ(torch_permutation(10, 42), (Order{2, 6, 1, 8, 4, 5, 0, 9, 3, 7}));
  EXPECT_EQ(torch_permutation(10, (uint64_t{1} << 32) + 42), torch_permutation(10, 42));
  EXPECT_TRUE(torch_permutation(0, 1).empty());
}

TEST(Shuffle, PhiloxPermutationsAreUniformAndIndependent) {
  // 24 orders of 4 elements, 24000 draws: chi-square with 23 degrees of freedom is below 49.7 with
  // probability 0.999; the draws are fixed, so this cannot flicker.
  std::map<std::vector<uint32_t>, int> counts;
  for (uint64_t epoch = 0; epoch < 24000; ++epoch) ++counts[philox_permutation(4, 7, epoch, 0)];
  ASSERT_EQ(counts.size(), 24u);
  double chi_square = 0;
  for (const auto& [order, count] : counts) chi_square += (count - 1000.0) * (count - 1000.0) / 1e3;
  EXPECT_LT(chi_square, 49.7);
  const auto order = philox_permutation(1000, 1, 2, 0);
  EXPECT_EQ(std::set<uint32_t>(order.begin(), order.end()).size(), 1000u);
  EXPECT_EQ(order, philox_permutation(1000, 1, 2, 0));
  EXPECT_NE(order, philox_permutation(1000, 2, 2, 0));
  EXPECT_NE(order, philox_permutation(1000, 1, 3, 0));
  EXPECT_NE(order, philox_permutation(1000, 1, 2, 1));
}

TEST(Shuffle, TorchModeOrdersRowsAsTheTrainerDoes) {
  std::vector<Ids> rows;
  for (int32_t i = 0; i < 10; ++i) rows.push_back({i * 1000, i * 1000 + 1});
  DatasetOptions options;
  options.packing = Packing::rows;
  BatchOptions batch_options;
  batch_options.packing = Packing::rows;
  batch_options.micro_batch_rows = 4;
  batch_options.shuffle = Shuffle::torch;
  batch_options.seed = 41;
  const auto dataset = std::make_shared<Dataset>(data_of(rows), options);
  const Batcher batcher(dataset, batch_options);
  const EpochPlan plan = batcher.plan(1);  // seed + epoch = 42
  std::vector<uint32_t> order;
  std::vector<int64_t> sizes;
  for (uint64_t i = 0; i < batcher.num_batches(plan); ++i) {
    const Batch batch = batcher.batch(plan, i);
    order.insert(order.end(), batch.rows.begin(), batch.rows.end());
    sizes.push_back(batch.num_sequences());
  }
  EXPECT_EQ(order, (std::vector<uint32_t>{2, 6, 1, 8, 4, 5, 0, 9, 3, 7}));
  EXPECT_EQ(sizes, (std::vector<int64_t>{4, 4, 2}));
  batch_options.drop_last = true;
  const Batcher dropping(dataset, batch_options);
  EXPECT_EQ(dropping.num_batches(dropping.plan(0)), 2u);
}

bool same(const Batch& a, const Batch& b) {
  return a.input_ids == b.input_ids && a.positions == b.positions && a.targets == b.targets &&
         a.cu_seqlens == b.cu_seqlens && a.rows == b.rows && a.labels == b.labels &&
         a.max_seqlen == b.max_seqlen && a.num_targets == b.num_targets &&
         a.position == b.position && a.last_in_epoch == b.last_in_epoch;
}

TEST(Iterator, ResumingAtEveryPositionGivesTheSameBatches) {
  const RandomRows rows = random_rows(5, 80, 30);
  for (Packing packing : {Packing::packed, Packing::rows, Packing::stream}) {
    DatasetOptions options;
    options.packing = packing;
    options.max_length = 30;
    options.on_no_target = OnNoTarget::drop;
    const auto dataset = std::make_shared<Dataset>(data_of(rows.ids, rows.trained), options);
    BatchOptions batch_options;
    batch_options.packing = packing;
    batch_options.micro_batch_tokens = 100;
    const auto batcher = std::make_shared<Batcher>(dataset, batch_options);
    BatchIterator whole(batcher, {});
    std::vector<Batch> expected;
    std::vector<DataPosition> positions;
    while (whole.position().epoch < 3) {
      positions.push_back(whole.position());
      expected.push_back(whole.next());
      EXPECT_EQ(expected.back().position, positions.back());
    }
    EXPECT_EQ(positions.back().epoch, 2u);
    EXPECT_GT(expected.size(), 20u);
    EXPECT_FALSE(same(expected[0], expected[expected.size() / 3 + 1]));
    for (size_t start = 0; start < expected.size(); ++start) {
      BatchIterator resumed(batcher, positions[start], static_cast<int>(start % 3));
      for (size_t i = start; i < std::min(start + 5, expected.size()); ++i) {
        ASSERT_TRUE(same(resumed.next(), expected[i])) << start << " " << i;
      }
      EXPECT_GE(resumed.wait_seconds(), 0);
    }
  }
}

TEST(Iterator, ErrorsOfTheThreadReachTheCaller) {
  const auto dataset = std::make_shared<Dataset>(data_of({{1, 2, 3}}), DatasetOptions{});
  BatchOptions options;
  options.micro_batch_tokens = 8;
  BatchIterator iterator(std::make_shared<Batcher>(dataset, options), {0, 5});
  EXPECT_THROW(iterator.next(), std::logic_error);
}

TEST(Batcher, SeveralRanksTakeTurnsAndTheLastRoundMayBeEmpty) {
  std::vector<Ids> rows;
  for (int32_t i = 0; i < 5; ++i) rows.push_back({i * 1000, i * 1000 + 1});
  BatchOptions options;
  options.micro_batch_tokens = 2;
  options.shuffle = Shuffle::none;
  options.num_ranks = 2;
  options.rank = 1;
  const Batcher batcher(std::make_shared<Dataset>(data_of(rows), DatasetOptions{}), options);
  const EpochPlan plan = batcher.plan(0);
  ASSERT_EQ(batcher.num_batches(plan), 3u);
  EXPECT_EQ(batcher.batch(plan, 1).rows, std::vector<uint32_t>{3});
  const Batch empty = batcher.batch(plan, 2);
  EXPECT_EQ(empty.num_tokens(), 0);
  EXPECT_EQ(empty.cu_seqlens, Ids{0});
  EXPECT_TRUE(empty.last_in_epoch);
  EXPECT_EQ(batcher.num_targets(plan, 0, 1), 2);
  EXPECT_EQ(batcher.num_targets(plan, 1, 3), 3);
}

TEST(Batcher, LargestBatchIsNotExceededInAnyEpoch) {
  const RandomRows rows = random_rows(9, 70, 40);
  for (Packing packing : {Packing::packed, Packing::rows, Packing::stream}) {
    for (int64_t budget : {0, 90}) {
      if (budget == 0 && packing != Packing::rows) continue;
      DatasetOptions options;
      options.packing = packing;
      options.max_length = 40;
      options.on_no_target = OnNoTarget::keep;
      BatchOptions batch_options;
      batch_options.packing = packing;
      batch_options.micro_batch_tokens = budget;
      batch_options.micro_batch_rows = packing == Packing::rows ? 5 : 0;
      const Batcher batcher(std::make_shared<Dataset>(data_of(rows.ids, rows.trained), options),
                            batch_options);
      const Batch largest = batcher.largest_batch();
      if (budget > 0) {
        EXPECT_LE(largest.num_tokens(), budget);
      }
      for (uint64_t epoch = 0; epoch < 20; ++epoch) {
        const EpochPlan plan = batcher.plan(epoch);
        if (packing != Packing::rows) {
          EXPECT_EQ(batcher.num_batches(plan), batcher.num_batches(batcher.plan(0)));
        }
        for (uint64_t i = 0; i < batcher.num_batches(plan); ++i) {
          EXPECT_LE(batcher.batch(plan, i).num_tokens(), largest.num_tokens());
        }
      }
    }
  }
}

TEST(Batcher, RefusesABudgetBelowTheLongestSample) {
  BatchOptions options;
  options.micro_batch_tokens = 4;
  const auto dataset = std::make_shared<Dataset>(data_of({{1, 2, 3, 4, 5}}), DatasetOptions{});
  const Error error = error_of([&] { Batcher(dataset, options); });
  EXPECT_EQ(error.code(), "DATA-BUDGET");
  EXPECT_EQ(error.exit_code(), ExitCode::usage);
  EXPECT_TRUE(testing::contains(error.what(), "a sample has 5 tokens"));
}

TEST(Steps, ArithmeticOfTheTrainer) {
  EXPECT_EQ(steps_per_epoch(10, 4), 3);
  EXPECT_EQ(steps_per_epoch(8, 4), 2);
  EXPECT_EQ(steps_per_epoch(3, 4), 1);
  EXPECT_EQ(steps_per_epoch(0, 4), 1);
  EXPECT_EQ(total_steps(2.5, 3, 0), 8);
  EXPECT_EQ(total_steps(3, 101, 0), 303);
  EXPECT_EQ(total_steps(3, 101, 50), 50);
}

}  // namespace
}  // namespace engine
