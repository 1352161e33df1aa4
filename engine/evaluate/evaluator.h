// Loss and accuracy of a model on a dataset: Σ losses / Σ labels, whatever the batching.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/data/batcher.h"
#include "engine/step/run_batch.h"
#include "engine/train/report/records.h"
#include "models/model.h"

namespace engine {

struct EvaluationOptions {
  PrecisionPolicy precision;
  int64_t max_batches = 0;  // 0 = all
  // Classifiers: see ForwardOptions; names in the order of the ids; and what sees the scores of
  // each row, labelled or not, as they come.
  const LabelTargets* label_targets = nullptr;
  std::vector<std::string> class_names;
  std::function<void(uint32_t row, std::span<const float> scores)> on_scores;
  // Called before each batch with its index and the number of batches.
  std::function<void(int64_t, int64_t)> progress;
};

// Fills loss, accuracy, rows, tokens_trained, batches, groups (loss per label when rows carry one),
// metrics and seconds of the record; step, epoch and best are the caller's. Of classifiers:
// classification_metrics.h.
EvalRecord evaluate(Runtime& runtime, Model& model, const Batcher& batcher,
                    const EvaluationOptions& options);

// The metric of that name: loss, perplexity, accuracy or one of record.metrics; NaN if the
// evaluation has none.
double metric_of(const EvalRecord& record, const std::string& name);

}  // namespace engine
