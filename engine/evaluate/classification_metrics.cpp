#include "engine/evaluate/classification_metrics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace engine {
namespace {

double ratio(double part, double whole) {
  return whole > 0 ? part / whole : 0.0;
}

// Pearson's correlation; 0 when one side does not vary.
double correlation(std::span<const double> a, std::span<const double> b) {
  const auto n = static_cast<double>(a.size());
  const double mean_a = std::accumulate(a.begin(), a.end(), 0.0) / n;
  const double mean_b = std::accumulate(b.begin(), b.end(), 0.0) / n;
  double both = 0, of_a = 0, of_b = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    both += (a[i] - mean_a) * (b[i] - mean_b);
    of_a += (a[i] - mean_a) * (a[i] - mean_a);
    of_b += (b[i] - mean_b) * (b[i] - mean_b);
  }
  return ratio(both, std::sqrt(of_a * of_b));
}

// Ranks from 1; equal values share the mean of theirs.
std::vector<double> ranks(std::span<const double> values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return values[a] < values[b]; });
  std::vector<double> result(values.size());
  for (size_t begin = 0, end = 0; begin < order.size(); begin = end) {
    while (end < order.size() && values[order[end]] == values[order[begin]]) ++end;
    const double rank = static_cast<double>(begin + 1 + end) / 2;
    for (size_t i = begin; i < end; ++i) result[order[i]] = rank;
  }
  return result;
}

double f1_of(int64_t right, int64_t wanted, int64_t answered) {
  return ratio(2.0 * static_cast<double>(right), static_cast<double>(wanted + answered));
}

// -t log σ(s) - (1 - t) log(1 - σ(s))
double binary_cross_entropy(double score, double target) {
  return std::max(score, 0.0) - score * target + std::log1p(std::exp(-std::abs(score)));
}

}  // namespace

ClassificationMetrics::ClassificationMetrics(ProblemType type, std::vector<std::string> class_names)
    : type_(type), names_(std::move(class_names)), classes_(names_.size()) {}

void ClassificationMetrics::add_class(std::span<const float> scores, int32_t wanted, double loss) {
  const auto answer =
      static_cast<size_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
  Class& right_class = classes_.at(static_cast<size_t>(wanted));
  ++right_class.wanted;
  right_class.loss += loss;
  ++classes_[answer].answered;
  const bool right = answer == static_cast<size_t>(wanted);
  right_class.right += right;
  right_ += right;
  ++rows_;
}

void ClassificationMetrics::add_values(std::span<const float> scores,
                                       std::span<const float> wanted) {
  ++rows_;
  if (type_ == ProblemType::regression) {
    answers_.insert(answers_.end(), scores.begin(), scores.end());
    targets_.insert(targets_.end(), wanted.begin(), wanted.end());
    return;
  }
  bool all_right = true;
  for (size_t i = 0; i < classes_.size(); ++i) {
    const bool answer = scores[i] > 0, truth = wanted[i] >= 0.5f;
    classes_[i].wanted += truth;
    classes_[i].answered += answer;
    classes_[i].right += truth && answer;
    classes_[i].loss += binary_cross_entropy(scores[i], wanted[i]);
    all_right = all_right && truth == answer;
  }
  right_ += all_right;
}

double ClassificationMetrics::macro_f1(bool all_classes) const {
  double sum = 0;
  int64_t count = 0;
  for (const Class& c : classes_) {
    if (!all_classes && c.wanted + c.answered == 0) continue;
    sum += f1_of(c.right, c.wanted, c.answered);
    ++count;
  }
  return ratio(sum, static_cast<double>(count));
}

double ClassificationMetrics::matthews() const {
  const auto rows = static_cast<double>(rows_), right = static_cast<double>(right_);
  double product = 0, wanted = 0, answered = 0;
  for (const Class& c : classes_) {
    product += static_cast<double>(c.wanted) * static_cast<double>(c.answered);
    wanted += static_cast<double>(c.wanted) * static_cast<double>(c.wanted);
    answered += static_cast<double>(c.answered) * static_cast<double>(c.answered);
  }
  return ratio(right * rows - product,
               std::sqrt((rows * rows - wanted) * (rows * rows - answered)));
}

void ClassificationMetrics::write_groups(EvalRecord& record) const {
  for (size_t i = 0; i < classes_.size(); ++i) {
    const Class& c = classes_[i];
    if (c.wanted + c.answered == 0) continue;
    const int64_t losses = type_ == ProblemType::multi_label ? rows_ : c.wanted;
    record.groups.push_back(
        {.name = names_[i],
         .loss = ratio(c.loss, static_cast<double>(losses)),
         .rows = c.wanted,
         .scores = ClassScores{
             .precision = ratio(static_cast<double>(c.right), static_cast<double>(c.answered)),
             .recall = ratio(static_cast<double>(c.right), static_cast<double>(c.wanted)),
             .f1 = f1_of(c.right, c.wanted, c.answered)}});
  }
}

void ClassificationMetrics::write(EvalRecord& record) const {
  if (rows_ == 0) return;
  const auto metric = [&](const char* name, double value) {
    record.metrics.emplace_back(name, value);
  };
  if (type_ == ProblemType::regression) {
    double error = 0;
    for (size_t i = 0; i < answers_.size(); ++i) error += std::abs(answers_[i] - targets_[i]);
    metric("mae", error / static_cast<double>(answers_.size()));
    metric("pearson", correlation(answers_, targets_));
    // Numbers that are none have no order.
    metric("spearman",
           std::isfinite(error) ? correlation(ranks(answers_), ranks(targets_)) : std::nan(""));
    return;
  }
  record.accuracy = static_cast<double>(right_) / static_cast<double>(rows_);
  if (type_ == ProblemType::single_label) {
    metric("f1_macro", macro_f1(/*all_classes=*/false));
    metric("matthews", matthews());
  } else {
    int64_t right = 0, wanted = 0, answered = 0;
    for (const Class& c : classes_) {
      right += c.right;
      wanted += c.wanted;
      answered += c.answered;
    }
    metric("f1_micro", f1_of(right, wanted, answered));
    metric("f1_macro", macro_f1(/*all_classes=*/true));
  }
  write_groups(record);
}

std::vector<std::string> classification_metric_names(ProblemType type) {
  switch (type) {
    case ProblemType::single_label:
      return {"accuracy", "f1_macro", "matthews"};
    case ProblemType::multi_label:
      return {"accuracy", "f1_micro", "f1_macro"};
    case ProblemType::regression:
      return {"mae", "pearson", "spearman"};
  }
  return {};
}

}  // namespace engine
