#include "engine/evaluate/evaluator.h"

#include <algorithm>
#include <chrono>
#include <set>

#include "engine/step/run_batch.h"

namespace engine {
namespace {

struct Group {
  double loss = 0;
  int64_t labels = 0;
  std::set<uint32_t> rows;
};

}  // namespace

EvalRecord evaluate(Runtime& runtime, Model& model, const Batcher& batcher,
                    const EvaluationOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const bool language_model = model.info().task == Task::causal_lm;
  const std::vector<std::string>& names = batcher.dataset().data().rows.label_names();
  const EpochPlan plan = batcher.plan(0);
  int64_t batches = static_cast<int64_t>(batcher.num_batches(plan));
  if (options.max_batches > 0) batches = std::min(batches, options.max_batches);

  double loss = 0;
  int64_t labels = 0, correct = 0;
  std::set<uint32_t> rows;
  std::vector<Group> groups(names.size());
  for (int64_t b = 0; b < batches; ++b) {
    if (options.progress) options.progress(b, batches);
    const Batch batch = batcher.batch(plan, static_cast<uint64_t>(b));
    const BatchLoss result =
        run_batch(runtime, model, batch,
                  {.graph = {.record = false, .training = false, .precision = options.precision},
                   .argmax = true,
                   .class_of_label = options.class_of_label});
    const std::vector<float> losses = runtime.download(result.losses);
    const std::vector<int32_t> predicted = runtime.download_ints(result.argmax);
    for (int64_t s = 0; s < batch.num_sequences(); ++s) {
      // One label per position of a language model, one per sequence of a classifier.
      const int64_t begin = language_model ? batch.cu_seqlens[s] : s;
      const int64_t end = language_model ? batch.cu_seqlens[s + 1] : s + 1;
      const std::vector<int32_t>& wanted = language_model ? batch.targets : batch.labels;
      double sequence_loss = 0;
      int64_t sequence_labels = 0;
      for (int64_t t = begin; t < end; ++t) {
        if (wanted[t] < 0) continue;
        sequence_loss += losses[t];
        ++sequence_labels;
        const bool mapped = !language_model && options.class_of_label;
        correct += predicted[t] == (mapped ? (*options.class_of_label)[wanted[t]] : wanted[t]);
      }
      loss += sequence_loss;
      labels += sequence_labels;
      rows.insert(batch.rows[s]);
      if (batch.labels[s] >= 0 && batch.labels[s] < static_cast<int32_t>(groups.size())) {
        Group& group = groups[batch.labels[s]];
        group.loss += sequence_loss;
        group.labels += sequence_labels;
        group.rows.insert(batch.rows[s]);
      }
    }
  }
  EvalRecord record;
  record.loss = labels > 0 ? loss / static_cast<double>(labels) : 0.0;
  if (labels > 0) record.accuracy = static_cast<double>(correct) / static_cast<double>(labels);
  record.rows = static_cast<int64_t>(rows.size());
  record.tokens_trained = labels;
  record.batches = batches;
  for (size_t i = 0; i < groups.size(); ++i) {
    if (groups[i].labels == 0) continue;
    record.groups.push_back({names[i], groups[i].loss / static_cast<double>(groups[i].labels),
                             static_cast<int64_t>(groups[i].rows.size())});
  }
  record.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return record;
}

}  // namespace engine
