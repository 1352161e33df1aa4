#include "engine/step/run_batch.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "engine/core/profile_range.h"

namespace engine {

ModelBatch upload_batch(Runtime& runtime, const Model& model, const Batch& batch) {
  ModelBatch out;
  out.input_ids = runtime.upload_vector(batch.input_ids, DType::i32);
  out.positions = runtime.upload_vector(
      model.position_ids(batch.input_ids, batch.cu_seqlens, batch.positions), DType::i32);
  out.targets = runtime.upload_vector(batch.targets, DType::i32);
  const auto sequences = [&](const std::vector<int32_t>& cu_seqlens, int32_t longest) {
    return Sequences{.cu_seqlens = runtime.upload_vector(cu_seqlens, DType::i32),
                     .count = static_cast<int>(batch.num_sequences()),
                     .max_length = longest,
                     .tokens = cu_seqlens.back()};
  };
  out.sequences = sequences(batch.cu_seqlens, batch.max_seqlen);
  if (!batch.source.input_ids.empty()) {
    out.source_ids = runtime.upload_vector(batch.source.input_ids, DType::i32);
    out.source_sequences = sequences(batch.source.cu_seqlens, batch.source.max_seqlen);
  }
  if (model.info().task == Task::sequence_classification) {
    out.pooled_rows = runtime.upload_vector(pooled_rows(model.info(), batch), DType::i32);
  }
  return out;
}

std::vector<int32_t> pooled_rows(const ModelInfo& info, const Batch& batch) {
  std::vector<int32_t> rows;
  for (int64_t s = 0; s < batch.num_sequences(); ++s) {
    const int32_t begin = batch.cu_seqlens[s];
    int32_t row = info.pooling == Pooling::first_token ? begin : batch.cu_seqlens[s + 1] - 1;
    if (!info.pad_ids.empty()) {
      while (row > begin && batch.input_ids[row] == info.pad_ids[0]) --row;
    }
    rows.push_back(row);
  }
  return rows;
}

namespace {

// Class of each sequence; -100 where it has no label.
std::vector<int32_t> class_targets(const Batch& batch, const LabelTargets* targets) {
  std::vector<int32_t> classes;
  for (const int32_t label : batch.labels) {
    classes.push_back(label < 0 ? kernels::kIgnoreIndex
                      : targets ? targets->classes.at(static_cast<size_t>(label))
                                : label);
  }
  return classes;
}

// [S, num_labels]; NaN where a sequence has no label.
std::vector<float> score_targets(const Batch& batch, const LabelTargets* targets, int num_labels) {
  std::vector<float> values;
  for (const int32_t label : batch.labels) {
    for (int i = 0; i < num_labels; ++i) {
      values.push_back(label < 0 ? std::numeric_limits<float>::quiet_NaN()
                                 : targets->values.at(static_cast<size_t>(label) * num_labels + i));
    }
  }
  return values;
}

BatchLoss classification_loss(Graph& graph, const ModelInfo& info, const Variable& scores,
                              const Tensor& labels, const ForwardOptions& options) {
  BatchLoss out;
  if (options.answers) out.scores = to_fp32(graph, scores.tensor());
  if (info.problem_type == ProblemType::single_label) {
    out.losses = cross_entropy(graph, scores, labels, {.grad_scale = options.grad_scale}).losses;
  } else {
    out.losses = score_loss(graph, scores, labels,
                            {.kind = info.problem_type == ProblemType::regression
                                         ? kernels::ScoreLossKind::squared_error
                                         : kernels::ScoreLossKind::binary_cross_entropy,
                             .grad_scale = options.grad_scale});
  }
  return out;
}

// Adds the time since the last call to a counter, if times are wanted.
class Stopwatch {
 public:
  Stopwatch(Runtime& runtime, bool wanted) : runtime_(runtime), wanted_(wanted) { restart(); }
  void lap(double BatchTimes::*counter, BatchTimes* times) {
    if (!wanted_) return;
    runtime_.ops().synchronize(runtime_.stream());
    times->*counter += std::chrono::duration<double>(Clock::now() - start_).count();
    restart();
  }

 private:
  using Clock = std::chrono::steady_clock;
  void restart() { start_ = Clock::now(); }

  Runtime& runtime_;
  bool wanted_;
  Clock::time_point start_;
};

}  // namespace

BatchInputs upload_inputs(Runtime& runtime, const Model& model, const Batch& batch,
                          const LabelTargets* label_targets) {
  BatchInputs inputs{.batch = upload_batch(runtime, model, batch), .labels = {}};
  const ModelInfo& info = model.info();
  if (info.task == Task::causal_lm) return inputs;
  inputs.labels =
      info.problem_type == ProblemType::single_label
          ? runtime.upload_vector(class_targets(batch, label_targets), DType::i32)
          : runtime.upload_vector(score_targets(batch, label_targets, info.num_labels), DType::f32);
  return inputs;
}

std::vector<int64_t> signature(const BatchInputs& inputs) {
  std::vector<int64_t> numbers;
  const ModelBatch& b = inputs.batch;
  for (const Tensor* tensor :
       {&b.input_ids, &b.positions, &b.targets, &b.sequences.cu_seqlens, &b.source_ids,
        &b.source_sequences.cu_seqlens, &b.pooled_rows, &inputs.labels}) {
    numbers.push_back(static_cast<int64_t>(reinterpret_cast<uintptr_t>(tensor->data())));
    numbers.push_back(*tensor ? tensor->count() : 0);
  }
  for (const Sequences* sequences : {&b.sequences, &b.source_sequences}) {
    numbers.insert(numbers.end(), {sequences->count, sequences->max_length, sequences->tokens});
  }
  return numbers;
}

BatchLoss compute_batch(Runtime& runtime, Model& model, const BatchInputs& inputs,
                        const ForwardOptions& options, uint64_t* dropout_sites) {
  Graph graph(runtime, options.graph);
  Stopwatch watch(runtime, options.times != nullptr);
  BatchLoss out;
  {
    Variable hidden;
    {
      const ProfileRange range(runtime.ops(), "forward");
      hidden = model.hidden_states(graph, inputs.batch);
    }
    watch.lap(&BatchTimes::forward, options.times);
    const ProfileRange range(runtime.ops(), "head");
    if (model.info().task == Task::causal_lm) {
      const CrossEntropyResult result =
          linear_cross_entropy(graph, hidden, model.head(), inputs.batch.targets,
                               {.logit_scale = model.info().logit_scale,
                                .grad_scale = options.grad_scale,
                                .argmax = options.answers});
      out = {.losses = result.losses, .argmax = result.argmax, .scores = {}};
    } else {
      const Variable scores = model.class_scores(graph, hidden, inputs.batch);
      out = classification_loss(graph, model.info(), scores, inputs.labels, options);
    }
    watch.lap(&BatchTimes::head, options.times);
  }
  if (options.graph.record) {
    const ProfileRange range(runtime.ops(), "backward");
    graph.backward();
  }
  watch.lap(&BatchTimes::backward, options.times);
  if (dropout_sites) *dropout_sites = graph.dropout_sites();
  return out;
}

BatchLoss run_batch(Runtime& runtime, Model& model, const Batch& batch,
                    const ForwardOptions& options) {
  return compute_batch(runtime, model, upload_inputs(runtime, model, batch, options.label_targets),
                       options);
}

double sum_losses(std::span<const float> losses) {
  double sum = 0;
  for (float loss : losses) sum += loss;
  return sum;
}

int64_t trained_labels(const Model& model, const Batch& batch) {
  if (model.info().task == Task::causal_lm) return batch.num_targets;
  return std::count_if(batch.labels.begin(), batch.labels.end(),
                       [](int32_t label) { return label >= 0; });
}

}  // namespace engine
