#include "engine/step/run_batch.h"

#include <algorithm>
#include <chrono>

namespace engine {

ModelBatch upload_batch(Runtime& runtime, const Batch& batch) {
  ModelBatch out;
  out.input_ids = runtime.upload_vector(batch.input_ids, DType::i32);
  out.positions = runtime.upload_vector(batch.positions, DType::i32);
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
  return out;
}

std::vector<int32_t> pooled_rows(const Model& model, const Batch& batch) {
  const std::vector<int32_t>& pads = model.info().pad_ids;
  std::vector<int32_t> rows;
  for (int64_t s = 0; s < batch.num_sequences(); ++s) {
    const int32_t begin = batch.cu_seqlens[s], end = batch.cu_seqlens[s + 1];
    int32_t row = end - 1;
    if (!pads.empty()) {
      while (row > begin && batch.input_ids[row] == pads[0]) --row;
      if (batch.input_ids[row] == pads[0]) row = begin;
    }
    rows.push_back(row);
  }
  return rows;
}

namespace {

// Class of each sequence; -100 where it has no label.
std::vector<int32_t> class_targets(const Batch& batch, const std::vector<int32_t>* class_of_label) {
  std::vector<int32_t> classes;
  for (const int32_t label : batch.labels) {
    classes.push_back(label < 0        ? kernels::kIgnoreIndex
                      : class_of_label ? (*class_of_label)[label]
                                       : label);
  }
  return classes;
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

BatchLoss run_batch(Runtime& runtime, Model& model, const Batch& batch,
                    const ForwardOptions& options) {
  Graph graph(runtime, options.graph);
  const ModelBatch inputs = upload_batch(runtime, batch);
  const CrossEntropyOptions loss_options{.logit_scale = model.info().logit_scale,
                                         .grad_scale = options.grad_scale,
                                         .argmax = options.argmax};
  Stopwatch watch(runtime, options.times != nullptr);
  BatchLoss out;
  {
    const Variable hidden = model.hidden_states(graph, inputs);
    watch.lap(&BatchTimes::forward, options.times);
    CrossEntropyResult result;
    if (model.info().task == Task::causal_lm) {
      result = linear_cross_entropy(graph, hidden, model.head(), inputs.targets, loss_options);
    } else {
      const Tensor rows = runtime.upload_vector(pooled_rows(model, batch), DType::i32);
      const Tensor labels =
          runtime.upload_vector(class_targets(batch, options.class_of_label), DType::i32);
      const Variable logits =
          linear(graph, gather_rows(graph, hidden, rows), model.head(), nullptr);
      result = cross_entropy(graph, logits, labels, loss_options);
    }
    out = {result.losses, result.argmax};
    watch.lap(&BatchTimes::head, options.times);
  }
  if (options.graph.record) graph.backward();
  watch.lap(&BatchTimes::backward, options.times);
  return out;
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
