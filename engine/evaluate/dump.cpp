#include "engine/evaluate/dump.h"

#include <fmt/format.h>

#include <deque>

#include "engine/core/error.h"
#include "engine/step/memory_plan.h"
#include "models/registry.h"
#include "weights/safetensors.h"

namespace engine {
namespace {

// `label`: what the batch's label is an id of, see LabelTargets.
Batch batch_of(const DumpRow& row, int32_t label) {
  Batch batch;
  const size_t n = row.input_ids.size();
  batch.input_ids = row.input_ids;
  batch.cu_seqlens = {0, static_cast<int32_t>(n)};
  batch.max_seqlen = static_cast<int32_t>(n);
  batch.rows = {0};
  batch.labels = {row.class_label >= 0 || !row.targets.empty() ? label : -1};
  for (size_t t = 0; t < n; ++t) {
    batch.positions.push_back(static_cast<int32_t>(t));
    const bool predicted = t + 1 < n && t + 1 < row.labels.size();
    batch.targets.push_back(predicted ? row.labels[t + 1] : kernels::kIgnoreIndex);
    batch.num_targets += batch.targets.back() != kernels::kIgnoreIndex;
  }
  return batch;
}

// A row of an encoder-decoder model.
Batch pair_of(const DumpRow& row, const ModelInfo& info) {
  Batch batch;
  std::vector<int32_t> inputs = row.decoder_input_ids, labels = row.labels;
  if (inputs.empty()) inputs = shift_right(labels, info.decoder_start_id, *pair_pad_id(info));
  if (labels.empty()) labels.assign(inputs.size(), kernels::kIgnoreIndex);
  append_pair(batch, row.input_ids, inputs, labels);
  batch.rows = {0};
  batch.labels = {-1};
  return batch;
}

// Host copies that live until the file is written.
class Tensors {
 public:
  void add(std::string name, std::vector<int64_t> shape, std::vector<float> values) {
    values_.push_back(std::move(values));
    list_.push_back(TensorToWrite::from_bytes(std::move(name), FileDtype::f32, std::move(shape),
                                              values_.back().data()));
  }
  const std::vector<TensorToWrite>& list() const { return list_; }

 private:
  std::deque<std::vector<float>> values_;
  std::vector<TensorToWrite> list_;
};

void add_forward(Runtime& runtime, Model& model, const Batch& batch, size_t row,
                 const DumpOptions& options, Tensors& out) {
  Probe probe;
  if (options.hidden_states) {
    probe = [&](const std::string& name, const Tensor& value) {
      if (name.find("hidden.") == std::string::npos) return;
      out.add(fmt::format("{}.{}", name, row), value.shape().vector(), runtime.download(value));
    };
  }
  Graph graph(runtime, {.record = false,
                        .training = false,
                        .precision = options.precision,
                        .probe = std::move(probe)});
  const ModelBatch inputs = upload_batch(runtime, model, batch);
  const Variable hidden = model.hidden_states(graph, inputs);
  if (!options.logits) return;
  const bool classifier = model.info().task == Task::sequence_classification;
  const Tensor z = classifier ? model.class_scores(graph, hidden, inputs).tensor()
                              : logits(graph, hidden, model.head(), model.info().logit_scale);
  std::vector<int64_t> shape = z.shape().vector();
  if (classifier) shape = {shape.back()};
  out.add(fmt::format("logits.{}", row), shape, runtime.download(z));
}

// Takes memory for the longest row, so that no allocation happens between operations.
void reserve(Runtime& runtime, const Model& model, const std::vector<Batch>& batches,
             const DumpOptions& options) {
  if (runtime.memory().arena_capacity() > 0) return;
  BatchShape shape;
  for (const Batch& batch : batches) {
    shape.tokens = std::max(shape.tokens, batch.num_tokens());
    shape.source_tokens = std::max(shape.source_tokens, batch.num_source_tokens());
  }
  shape.longest = shape.tokens;
  shape.source_longest = shape.source_tokens;
  const int64_t longest = std::max(shape.longest, shape.source_longest);
  const ModelFactory make = [&] { return make_model_like(model); };
  const kernels::DeviceType device = runtime.stream().device;
  const MemoryPlan plan = options.gradients ? plan_training(make, {.precision = options.precision,
                                                                   .train = shape,
                                                                   .max_positions = longest,
                                                                   .device = device})
                                            : plan_inference(make, {.precision = options.precision,
                                                                    .batch = shape,
                                                                    .max_positions = longest,
                                                                    .device = device});
  runtime.memory().reserve_arena(plan.arena);
}

}  // namespace

DumpSummary write_dump(Runtime& runtime, Model& model, const std::vector<DumpRow>& rows,
                       const DumpOptions& options, const std::filesystem::path& path) {
  std::vector<Batch> batches;
  DumpSummary summary;
  LabelTargets targets;  // every row has a label of its own
  const auto outputs = static_cast<size_t>(model.info().num_labels);
  for (const DumpRow& row : rows) {
    const auto label = static_cast<int32_t>(batches.size());
    batches.push_back(model.info().encoder_decoder ? pair_of(row, model.info())
                                                   : batch_of(row, label));
    summary.labels += trained_labels(model, batches.back());
    targets.classes.push_back(row.class_label);
    targets.values.insert(targets.values.end(), row.targets.begin(), row.targets.end());
    targets.values.resize(batches.size() * outputs);
  }
  if (options.gradients && summary.labels == 0) {
    throw Error(ExitCode::data, "DATA-NO-TARGET", "no row has a label: there is no loss")
        .expected(model.info().encoder_decoder ? "\"labels\" of the decoder, not all -100"
                  : model.info().task == Task::causal_lm
                      ? "\"labels\" as long as \"input_ids\", not all -100 behind the first"
                      : "\"labels\" with the class of the row, or its numbers")
        .fix("add labels, or leave the gradients out: --no-grad");
  }
  reserve(runtime, model, batches, options);
  Tensors tensors;
  for (size_t i = 0; i < batches.size(); ++i) {
    add_forward(runtime, model, batches[i], i, options, tensors);
  }
  if (summary.labels > 0) {
    const double scale = 1.0 / static_cast<double>(summary.labels);
    double loss = 0;
    for (const Batch& batch : batches) {
      const BatchLoss result =
          run_batch(runtime, model, batch,
                    {.graph = {.record = options.gradients,
                               .training = false,  // no dropout: numbers that can be compared
                               .precision = options.precision},
                     .grad_scale = static_cast<float>(scale),
                     .label_targets = &targets});
      loss += sum_losses(runtime.download(result.losses));
    }
    summary.loss = loss * scale;
    tensors.add("loss", {1}, {static_cast<float>(summary.loss)});
  }
  if (options.gradients) {
    for (const auto& parameter : model.parameters()) {
      for (const ParameterPart& part : parameter->parts) {
        tensors.add("grad." + part.name, part.shape.vector(),
                    model.parameters().read_grad(runtime, *parameter, part));
      }
    }
  }
  summary.tensors = tensors.list().size();
  SafetensorsWriter(tensors.list()).write(path);
  return summary;
}

}  // namespace engine
