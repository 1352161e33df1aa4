// Evaluating a checkpoint on files, without a training run.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "engine/config/train_config.h"
#include "engine/evaluate/evaluator.h"
#include "engine/step/labels.h"

namespace engine {

// What a classifier answers for one row.
struct Answer {
  std::string file;
  uint64_t line = 0;
  std::optional<std::string> label;  // of the row, as the file has it
  std::vector<float> logits;         // one per class or output
  // One class: softmax of the logits. Several: sigmoid of each. Regression: none.
  std::vector<double> probabilities;
  // The likeliest class; or those with a probability above 1/2. Regression: none.
  std::vector<int> classes;
};

struct EvaluationRequest {
  // model.path is the checkpoint and data.validation the files; of the other settings those of
  // section data, train.precision, train.micro_batch_*, train.eval_max_batches and model.tokenizer
  // count.
  TrainConfig config;
  kernels::Stream device;                          // choose_device()
  std::function<void(int64_t, int64_t)> progress;  // batches done, batches
  // Classifiers: gets every row in the order of the files, when all are done. Rows need no labels
  // then.
  std::function<void(const Answer&, const LabelScheme&)> on_answer;
};

struct Evaluation {
  EvalRecord record;
  std::optional<double> perplexity;  // language models: exp(loss)
  std::string data_summary;          // DataAudit::summary()
};

// Throws engine::Error for everything a user can have got wrong.
Evaluation evaluate_checkpoint(const EvaluationRequest& request);

}  // namespace engine
