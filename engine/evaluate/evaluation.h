// Evaluating a checkpoint on files, without a training run.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "engine/config/train_config.h"
#include "engine/evaluate/evaluator.h"

namespace engine {

struct EvaluationRequest {
  // model.path is the checkpoint and data.validation the files; of the other settings those of
  // section data, train.precision, train.micro_batch_*, train.eval_max_batches and model.tokenizer
  // count.
  TrainConfig config;
  kernels::Stream device;                          // choose_device()
  std::function<void(int64_t, int64_t)> progress;  // batches done, batches
};

struct Evaluation {
  EvalRecord record;
  std::optional<double> perplexity;  // language models: exp(loss)
  std::string data_summary;          // DataAudit::summary()
};

// Throws engine::Error for everything a user can have got wrong.
Evaluation evaluate_checkpoint(const EvaluationRequest& request);

}  // namespace engine
