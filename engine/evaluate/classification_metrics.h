// How good the scores of a classifier are, over all rows with a label.
//
//   single label   accuracy; f1_macro; matthews, the correlation of Matthews for any number of
//                  classes (Gorodkin 2004); per class precision, recall, F1 and loss
//   multi label    a class is answered when its score is above 0 (probability 1/2). accuracy: rows
//                  in which every class is right; f1_micro, f1_macro; per class as above
//   regression     mae; pearson and spearman (ties have their mean rank), over all outputs
// As scikit-learn has them: f1_macro is the mean over the classes that occur in labels or answers
// (single label) or over all of them (multi label), and a ratio of nothing is 0.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/train/report/records.h"
#include "models/model.h"

namespace engine {

class ClassificationMetrics {
 public:
  ClassificationMetrics(ProblemType type, std::vector<std::string> class_names);

  // One row. `scores` has one number per class or output.
  void add_class(std::span<const float> scores, int32_t wanted, double loss);
  void add_values(std::span<const float> scores, std::span<const float> wanted);

  // Fills accuracy, metrics and groups.
  void write(EvalRecord& record) const;

 private:
  struct Class {
    int64_t wanted = 0, answered = 0, right = 0;  // rows
    double loss = 0;                              // of the rows that have it; of all: multi label
  };

  double macro_f1(bool all_classes) const;
  double matthews() const;
  void write_groups(EvalRecord& record) const;

  ProblemType type_;
  std::vector<std::string> names_;
  std::vector<Class> classes_;
  int64_t rows_ = 0, right_ = 0;
  std::vector<double> answers_, targets_;  // regression
};

// The names of the metrics above that a problem has, besides loss: what train.best_metric may be.
std::vector<std::string> classification_metric_names(ProblemType type);

}  // namespace engine
