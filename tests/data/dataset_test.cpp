// Policies for rows that do not fit, the audit, and the validation split.
#include "engine/data/dataset.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "tests/data/support.h"

namespace engine {
namespace {

using testing::contains;
using testing::data_of;
using testing::error_of;

using Ids = std::vector<int32_t>;

Ids sequence(int32_t first, size_t length) {
  Ids ids(length);
  for (size_t i = 0; i < length; ++i) ids[i] = first + static_cast<int32_t>(i);
  return ids;
}

TEST(Overflow, ErrorGivesLengthsAndTheLongestRow) {
  std::vector<Ids> rows;
  std::vector<std::vector<uint8_t>> trained;
  for (size_t i = 1; i <= 100; ++i) {
    rows.push_back(sequence(0, i * 10));
    trained.emplace_back(i * 10, 1);
  }
  std::fill_n(trained[98].begin(), 950, uint8_t{0});  // 990 tokens, the last 40 trained
  DatasetOptions options;
  options.max_length = 950;
  const Error error = error_of([&] { Dataset(data_of(rows, trained), options); });
  EXPECT_EQ(error.code(), "DATA-OVERFLOW");
  EXPECT_EQ(error.exit_code(), ExitCode::data);
  EXPECT_TRUE(contains(error.what(),
                       "5 of 100 rows exceed data.max_length=950 (longest 1 000 tokens: "
                       "rows.jsonl:100)"));
  EXPECT_TRUE(contains(error.what(), "lengths   p50 500  p90 900  p99 990  max 1 000"));
  EXPECT_TRUE(contains(error.what(), "*all* trained tokens of 1 rows"));
  EXPECT_TRUE(contains(error.what(), "drop | truncate_left | truncate_right | split"));
  EXPECT_TRUE(contains(error.what(), "data.max_length=1024"));
}

TEST(Overflow, PoliciesAndTheirCounts) {
  // Row 1 is a prompt of 6 and a completion of 2.
  const std::vector<Ids> rows = {{1, 2, 3}, {10, 11, 12, 13, 14, 15, 16, 17}, {20, 21, 22, 23, 24}};
  const std::vector<std::vector<uint8_t>> trained = {
      {1, 1, 1}, {0, 0, 0, 0, 0, 0, 1, 1}, {1, 1, 1, 1, 1}};
  DatasetOptions options;
  options.max_length = 4;
  options.on_no_target = OnNoTarget::drop;
  options.overflow = Overflow::drop;
  const Dataset dropped(data_of(rows, trained), options);
  EXPECT_EQ(dropped.num_samples(), 1u);
  EXPECT_EQ(dropped.audit().dropped_over_length, 2u);
  EXPECT_EQ(dropped.audit().over_length, 2u);
  EXPECT_EQ(dropped.audit().tokens, 3u);
  EXPECT_EQ(dropped.audit().targets, 2u);

  options.overflow = Overflow::truncate_right;
  const Dataset right(data_of(rows, trained), options);
  EXPECT_EQ(right.num_samples(), 2u);
  EXPECT_EQ(right.audit().dropped_no_target, 1u);  // row 1 lost its completion
  EXPECT_EQ(right.audit().truncated, 2u);
  EXPECT_EQ(right.audit().truncated_tokens, 5u);
  EXPECT_EQ(right.segments(1)[0].begin, 11u);
  EXPECT_EQ(right.segments(1)[0].num_targets, 3u);

  options.overflow = Overflow::truncate_left;
  const Dataset left(data_of(rows, trained), options);
  EXPECT_EQ(left.num_samples(), 3u);
  EXPECT_EQ(left.segments(1)[0].begin, 3u + 4u);
  EXPECT_EQ(left.segments(1)[0].num_targets, 2u);

  options.overflow = Overflow::split;
  const Dataset split(data_of(rows, trained), options);
  // Pieces 10-13 (no target) and 24 alone (nothing left to predict) are left out.
  ASSERT_EQ(split.num_samples(), 3u);
  EXPECT_EQ(split.audit().split, 2u);
  EXPECT_EQ(split.audit().dropped_pieces, 2u);
  EXPECT_EQ(split.audit().targets, 2u + 2u + 4u);
  EXPECT_TRUE(split.segments(2)[0].continues);
  EXPECT_EQ(split.segments(2)[0].num_targets, 4u);
  EXPECT_TRUE(contains(split.audit().summary(), "2 rows split (2 pieces without target dropped)"));
}

TEST(NoTarget, ErrorDropKeep) {
  const std::vector<Ids> rows = {{1, 2, 3}, {4, 5}, {6}, {}};
  const std::vector<std::vector<uint8_t>> trained = {{1, 1, 1}, {1, 0}, {1}, {}};
  DatasetOptions options;
  const Error error = error_of([&] { Dataset(data_of(rows, trained), options); });
  EXPECT_EQ(error.code(), "DATA-NO-TARGET");
  EXPECT_TRUE(contains(error.what(), "3 of 4 rows have no trained token (first: rows.jsonl:2)"));
  options.on_no_target = OnNoTarget::drop;
  const Dataset dropped(data_of(rows, trained), options);
  EXPECT_EQ(dropped.audit().rows, 1u);
  EXPECT_EQ(dropped.audit().dropped_no_target, 3u);
  options.on_no_target = OnNoTarget::keep;
  const Dataset kept(data_of(rows, trained), options);
  EXPECT_EQ(kept.audit().rows, 3u);  // an empty row cannot be a sequence
  EXPECT_EQ(kept.audit().kept_no_target, 2u);
  EXPECT_EQ(kept.audit().dropped_no_target, 1u);
  options.on_no_target = OnNoTarget::drop;
  EXPECT_EQ(error_of([&] { Dataset(data_of({{1}, {2}}), options); }).code(), "DATA-EMPTY");
}

TEST(Audit, SaysWhatShareOfRowsTeachesToStop) {
  const std::vector<Ids> rows = {{5, 6, 2}, {2, 5, 6}, {5, 6, 2}, {5, 2}};
  const std::vector<std::vector<uint8_t>> trained = {{1, 1, 1}, {1, 1, 1}, {1, 1, 0}, {0, 1}};
  const Dataset dataset(data_of(rows, trained, 2), {});
  EXPECT_EQ(dataset.audit().ends_in_trained_eos, 2u);
  EXPECT_EQ(dataset.audit().length_max, 3u);
  EXPECT_DOUBLE_EQ(dataset.audit().length_mean, 11.0 / 4);
  EXPECT_TRUE(contains(dataset.audit().summary(), "50 % of rows end in a trained EOS"));
  EXPECT_TRUE(contains(dataset.audit().summary(), "4 rows 11 tok (6 trained)"));
}

TEST(Stream, BlocksCutRowsWithoutLosingTargets) {
  DatasetOptions options;
  options.packing = Packing::stream;
  options.max_length = 4;
  const Dataset dataset(data_of({{1, 2, 3}, {4, 5, 6, 7, 8, 9}}), options);
  ASSERT_EQ(dataset.num_samples(), 3u);
  EXPECT_EQ(dataset.sample_tokens(0), 4u);
  EXPECT_EQ(dataset.sample_tokens(2), 1u);
  ASSERT_EQ(dataset.segments(0).size(), 2u);
  EXPECT_FALSE(dataset.segments(0)[0].continues);
  EXPECT_TRUE(dataset.segments(0)[1].continues);
  EXPECT_EQ(dataset.segments(0)[1].num_targets, 1u);
  EXPECT_EQ(dataset.audit().targets, 2u + 5u);
  EXPECT_EQ(dataset.audit().over_length, 0u);
}

std::set<int32_t> first_ids(const Dataset& dataset) {
  std::set<int32_t> result;
  for (uint32_t i = 0; i < dataset.num_samples(); ++i) {
    result.insert(dataset.data().rows.ids()[dataset.segments(i)[0].begin]);
  }
  return result;
}

TEST(Split, EveryRowOnOneSideAndStableWhenRowsAreAdded) {
  std::vector<Ids> rows;
  for (int32_t i = 0; i < 4000; ++i) rows.push_back({i, i + 1, i + 2});
  DatasetOptions options;
  options.validation_fraction = 0.1;
  options.subset = RowSubset::validation;
  const auto validation = first_ids(Dataset(data_of(rows), options));
  options.subset = RowSubset::train;
  const auto train = first_ids(Dataset(data_of(rows), options));
  EXPECT_EQ(validation.size() + train.size(), rows.size());
  for (int32_t id : validation) EXPECT_FALSE(train.count(id));
  // 400 expected; 6 standard deviations of the binomial distribution.
  EXPECT_NEAR(static_cast<double>(validation.size()), 400, 6 * std::sqrt(4000 * 0.1 * 0.9));

  for (int32_t i = 4000; i < 5000; ++i) rows.push_back({i, i + 1, i + 2});
  options.subset = RowSubset::validation;
  auto later = first_ids(Dataset(data_of(rows), options));
  std::erase_if(later, [](int32_t id) { return id >= 4000; });
  EXPECT_EQ(later, validation);
  options.split_seed = 43;
  EXPECT_NE(first_ids(Dataset(data_of(rows), options)), validation);
}

TEST(Split, EqualRowsNeverStandOnBothSides) {
  std::vector<Ids> rows;
  for (int32_t i = 0; i < 300; ++i) rows.push_back({i % 10, 1, 2});
  DatasetOptions options;
  options.validation_fraction = 0.5;
  options.subset = RowSubset::validation;
  const auto validation = first_ids(Dataset(data_of(rows), options));
  options.subset = RowSubset::train;
  for (int32_t id : first_ids(Dataset(data_of(rows), options))) {
    EXPECT_FALSE(validation.count(id));
  }
}

TEST(Split, AnEmptySideIsAnError) {
  DatasetOptions options;
  options.subset = RowSubset::validation;
  options.validation_fraction = 1e-9;
  const Error error = error_of([&] { Dataset(data_of({{1, 2}, {3, 4}}), options); });
  EXPECT_EQ(error.code(), "DATA-EMPTY");
  EXPECT_TRUE(contains(error.what(), "leaves no row for validation"));
}

}  // namespace
}  // namespace engine
