// Loss and accuracy of a model on a dataset: Σ cross-entropy / Σ labels, whatever the batching.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "engine/data/batcher.h"
#include "engine/train/report/records.h"
#include "models/model.h"

namespace engine {

struct EvaluationOptions {
  PrecisionPolicy precision;
  int64_t max_batches = 0;                               // 0 = all
  const std::vector<int32_t>* class_of_label = nullptr;  // see ForwardOptions
  // Called before each batch with its index and the number of batches.
  std::function<void(int64_t, int64_t)> progress;
};

// Fills loss, accuracy, rows, tokens_trained, batches, groups (loss per label when rows carry one)
// and seconds of the record; step, epoch and best are the caller's.
EvalRecord evaluate(Runtime& runtime, Model& model, const Batcher& batcher,
                    const EvaluationOptions& options);

}  // namespace engine
