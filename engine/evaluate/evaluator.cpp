#include "engine/evaluate/evaluator.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <set>

#include "engine/evaluate/classification_metrics.h"

namespace engine {
namespace {

struct Group {
  double loss = 0;
  int64_t labels = 0;
  std::set<uint32_t> rows;
};

// What adds up over the batches.
struct Sums {
  double loss = 0;
  int64_t labels = 0, correct = 0;  // correct: of language models
  std::set<uint32_t> rows;
  std::vector<Group> groups;  // by the label of a row
};

// One label per token.
void add_tokens(Runtime& runtime, const Batch& batch, const BatchLoss& result, Sums& sums) {
  const std::vector<float> losses = runtime.download(result.losses);
  const std::vector<int32_t> predicted = runtime.download_ints(result.argmax);
  for (int64_t s = 0; s < batch.num_sequences(); ++s) {
    double sequence_loss = 0;
    int64_t sequence_labels = 0;
    for (int64_t t = batch.cu_seqlens[s]; t < batch.cu_seqlens[s + 1]; ++t) {
      if (batch.targets[t] < 0) continue;
      sequence_loss += losses[t];
      ++sequence_labels;
      sums.correct += predicted[t] == batch.targets[t];
    }
    sums.loss += sequence_loss;
    sums.labels += sequence_labels;
    sums.rows.insert(batch.rows[s]);
    if (batch.labels[s] >= 0 && batch.labels[s] < static_cast<int32_t>(sums.groups.size())) {
      Group& group = sums.groups[batch.labels[s]];
      group.loss += sequence_loss;
      group.labels += sequence_labels;
      group.rows.insert(batch.rows[s]);
    }
  }
}

// One label per sequence.
void add_rows(Runtime& runtime, const Batch& batch, const BatchLoss& result,
              const EvaluationOptions& options, ProblemType type, Sums& sums,
              ClassificationMetrics& metrics) {
  const std::vector<float> losses = runtime.download(result.losses);
  const std::vector<float> all_scores = runtime.download(result.scores);
  const auto outputs = static_cast<size_t>(result.scores.columns());
  for (size_t s = 0; s < losses.size(); ++s) {
    const std::span<const float> scores = std::span(all_scores).subspan(s * outputs, outputs);
    if (options.on_scores) options.on_scores(batch.rows[s], scores);
    sums.rows.insert(batch.rows[s]);
    if (batch.labels[s] < 0) continue;
    const auto label = static_cast<size_t>(batch.labels[s]);
    sums.loss += losses[s];
    ++sums.labels;
    if (type == ProblemType::single_label) {
      const LabelTargets* targets = options.label_targets;
      metrics.add_class(scores, targets ? targets->classes[label] : batch.labels[s], losses[s]);
    } else {
      metrics.add_values(
          scores, std::span(options.label_targets->values).subspan(label * outputs, outputs));
    }
  }
}

}  // namespace

EvalRecord evaluate(Runtime& runtime, Model& model, const Batcher& batcher,
                    const EvaluationOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const ModelInfo& info = model.info();
  const bool classifier = info.task == Task::sequence_classification;
  const std::vector<std::string>& names = batcher.dataset().data().rows.label_names();
  const EpochPlan plan = batcher.plan(0);
  int64_t batches = static_cast<int64_t>(batcher.num_batches(plan));
  if (options.max_batches > 0) batches = std::min(batches, options.max_batches);

  Sums sums;
  if (!classifier) sums.groups.resize(names.size());
  ClassificationMetrics metrics(info.problem_type, options.class_names);
  for (int64_t b = 0; b < batches; ++b) {
    if (options.progress) options.progress(b, batches);
    const Batch batch = batcher.batch(plan, static_cast<uint64_t>(b));
    const BatchLoss result =
        run_batch(runtime, model, batch,
                  {.graph = {.record = false, .training = false, .precision = options.precision},
                   .answers = true,
                   .label_targets = options.label_targets});
    if (classifier) {
      add_rows(runtime, batch, result, options, info.problem_type, sums, metrics);
    } else {
      add_tokens(runtime, batch, result, sums);
    }
  }
  EvalRecord record;
  const auto labels = static_cast<double>(sums.labels);
  record.per_token = !classifier;
  record.loss = sums.labels > 0 ? sums.loss / labels : 0.0;
  if (classifier) {
    metrics.write(record);
  } else if (sums.labels > 0) {
    record.accuracy = static_cast<double>(sums.correct) / labels;
  }
  record.rows = static_cast<int64_t>(sums.rows.size());
  record.tokens_trained = sums.labels;
  record.batches = batches;
  for (size_t i = 0; i < sums.groups.size(); ++i) {
    const Group& group = sums.groups[i];
    if (group.labels == 0) continue;
    record.groups.push_back({.name = names[i],
                             .loss = group.loss / static_cast<double>(group.labels),
                             .rows = static_cast<int64_t>(group.rows.size())});
  }
  record.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return record;
}

double metric_of(const EvalRecord& record, const std::string& name) {
  if (name == "loss") return record.loss;
  if (name == "perplexity") return std::exp(record.loss);
  if (name == "accuracy") return record.accuracy.value_or(std::nan(""));
  for (const auto& [known, value] : record.metrics) {
    if (known == name) return value;
  }
  return std::nan("");
}

}  // namespace engine
