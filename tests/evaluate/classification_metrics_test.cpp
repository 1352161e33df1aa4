// Metrics of classifiers against scikit-learn 1.x and SciPy (the numbers beside each case).
#include "engine/evaluate/classification_metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

namespace engine {
namespace {

constexpr double kExact = 1e-12;

std::map<std::string, double> named(const EvalRecord& record) {
  return {record.metrics.begin(), record.metrics.end()};
}

// Scores whose largest is that of `answer`.
std::vector<float> scores_for(int answer, int classes) {
  std::vector<float> scores(static_cast<size_t>(classes), -1.0f);
  scores[static_cast<size_t>(answer)] = 2.0f;
  return scores;
}

TEST(ClassificationMetrics, OneClassOfSeveral) {
  const int wanted[] = {0, 0, 1, 2, 2, 2, 1, 0}, answers[] = {0, 1, 1, 2, 0, 2, 1, 3};
  // A fifth class that neither occurs nor is answered does not count.
  ClassificationMetrics metrics(ProblemType::single_label, {"a", "b", "c", "d", "e"});
  for (int i = 0; i < 8; ++i) metrics.add_class(scores_for(answers[i], 5), wanted[i], i);
  EvalRecord record;
  metrics.write(record);
  EXPECT_NEAR(*record.accuracy, 0.625, kExact);
  EXPECT_NEAR(named(record)["f1_macro"], 0.5, kExact);
  EXPECT_NEAR(named(record)["matthews"], 0.5005173307126191, kExact);
  ASSERT_EQ(record.groups.size(), 4u);
  const ClassScores expected[] = {
      {0.5, 1.0 / 3, 0.4}, {2.0 / 3, 1.0, 0.8}, {1.0, 2.0 / 3, 0.8}, {0, 0, 0}};
  const int64_t rows[] = {3, 2, 3, 0};
  const double losses[] = {8.0 / 3, 4.0, 4.0, 0.0};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(record.groups[i].scores->precision, expected[i].precision, kExact) << i;
    EXPECT_NEAR(record.groups[i].scores->recall, expected[i].recall, kExact) << i;
    EXPECT_NEAR(record.groups[i].scores->f1, expected[i].f1, kExact) << i;
    EXPECT_EQ(record.groups[i].rows, rows[i]);
    EXPECT_NEAR(record.groups[i].loss, losses[i], kExact);
  }
}

TEST(ClassificationMetrics, SeveralClassesAtOnce) {
  const float wanted[4][3] = {{1, 0, 1}, {0, 0, 0}, {1, 1, 0}, {0, 1, 0}};
  const int answers[4][3] = {{1, 0, 0}, {0, 0, 0}, {1, 0, 0}, {1, 1, 0}};
  ClassificationMetrics metrics(ProblemType::multi_label, {"a", "b", "c"});
  for (int i = 0; i < 4; ++i) {
    std::vector<float> scores;
    for (const int answer : answers[i]) scores.push_back(answer ? 0.5f : -0.5f);
    metrics.add_values(scores, wanted[i]);
  }
  EvalRecord record;
  metrics.write(record);
  EXPECT_NEAR(*record.accuracy, 0.25, kExact);
  EXPECT_NEAR(named(record)["f1_micro"], 2.0 / 3, kExact);
  EXPECT_NEAR(named(record)["f1_macro"], 0.48888888888888893, kExact);
  // log(1 + exp(∓1/2)), right or wrong: a is right three times of four.
  const double right = std::log1p(std::exp(-0.5)), wrong = std::log1p(std::exp(0.5));
  EXPECT_NEAR(record.groups[0].loss, (3 * right + wrong) / 4, kExact);
}

TEST(ClassificationMetrics, Regression) {
  const float wanted[] = {1, 2, 2, 5, 4}, answers[] = {0.5, 2.5, 2, 2, 9};
  ClassificationMetrics metrics(ProblemType::regression, {"score"});
  for (int i = 0; i < 5; ++i) metrics.add_values({&answers[i], 1}, {&wanted[i], 1});
  EvalRecord record;
  metrics.write(record);
  EXPECT_FALSE(record.accuracy);
  EXPECT_NEAR(named(record)["mae"], 1.8, kExact);
  EXPECT_NEAR(named(record)["pearson"], 0.48918151399315923, kExact);
  EXPECT_NEAR(named(record)["spearman"], 0.5, kExact);
}

TEST(ClassificationMetrics, NothingAndConstants) {
  ClassificationMetrics none(ProblemType::single_label, {"a", "b"});
  EvalRecord record;
  none.write(record);
  EXPECT_FALSE(record.accuracy);
  EXPECT_TRUE(record.metrics.empty());
  // An answer that never varies has no correlation with anything.
  ClassificationMetrics constant(ProblemType::regression, {"score"});
  const float one = 1, two = 2;
  constant.add_values({&one, 1}, {&one, 1});
  constant.add_values({&one, 1}, {&two, 1});
  constant.write(record);
  EXPECT_EQ(named(record)["pearson"], 0.0);
  EXPECT_EQ(named(record)["spearman"], 0.0);
}

TEST(ClassificationMetrics, EveryNameIsWritten) {
  const float score[] = {0.5f, 1.0f}, wanted[] = {1.0f, 0.0f};
  for (const ProblemType type :
       {ProblemType::single_label, ProblemType::multi_label, ProblemType::regression}) {
    ClassificationMetrics metrics(type, {"a", "b"});
    if (type == ProblemType::single_label) {
      metrics.add_class(score, 0, 0.5);
    } else {
      metrics.add_values(score, wanted);
    }
    EvalRecord record;
    metrics.write(record);
    for (const std::string& name : classification_metric_names(type)) {
      EXPECT_TRUE(name == "accuracy" ? record.accuracy.has_value() : named(record).contains(name))
          << name;
    }
  }
}

}  // namespace
}  // namespace engine
