// One batch through a model: forward to its losses, backward into the parameter gradients.
#pragma once

#include <span>
#include <vector>

#include "engine/data/batch.h"
#include "models/model.h"

namespace engine {

// A host batch on the device, as `model` wants it.
ModelBatch upload_batch(Runtime& runtime, const Model& model, const Batch& batch);

// Token row of each sequence that a classifier looks at. Pooling::last_token: the rightmost one
// whose id is not the pad id, as in HF (models.md 1.6), the first one if all are, and the last one
// when there is no pad id.
std::vector<int32_t> pooled_rows(const ModelInfo& info, const Batch& batch);

// What the labels of the data mean to a classifier: engine/step/labels.h makes it.
struct LabelTargets {
  std::vector<int32_t> classes;  // single_label: the class of each label
  std::vector<float> values;     // else: [labels, num_labels], numbers or shares in 0..1
};

// All that the computation of a batch reads besides the parameters.
struct BatchInputs {
  ModelBatch batch;
  // Classification: i32 [S], the class of each sequence, or f32 [S, num_labels], its targets.
  Tensor labels;
};
BatchInputs upload_inputs(Runtime& runtime, const Model& model, const Batch& batch,
                          const LabelTargets* label_targets = nullptr);
// What a recording of the computation repeats: addresses and sizes of the inputs, and the numbers
// that the host reads. Equal for two batches: their computations queue the same operations.
std::vector<int64_t> signature(const BatchInputs& inputs);

// Losses of one batch, per token (0 where the target is -100) or, for classification, per sequence.
struct BatchLoss {
  Tensor losses;  // fp32 on the device
  // What the model would answer, when asked for.
  Tensor argmax;  // i32 [N], language models
  Tensor scores;  // fp32 [S, num_labels], classifiers
};

// Seconds spent, added up over batches. The head counts forward and backward: it is one operation.
struct BatchTimes {
  double forward = 0, head = 0, backward = 0;
};

struct ForwardOptions {
  Graph::Options graph;
  kernels::Scalar<float> grad_scale = 1.0f;  // gradient of each token's loss
  bool answers = false;                      // fill BatchLoss::argmax or scores
  // Classification: null = the label ids of the batch are classes.
  const LabelTargets* label_targets = nullptr;
  BatchTimes* times = nullptr;  // measured when given: waits for the device between the parts
};

// Forward of a batch to its losses; with graph.record also backward into the parameter gradients.
// `dropout_sites`: how many seeds of dropout it used.
BatchLoss compute_batch(Runtime& runtime, Model& model, const BatchInputs& inputs,
                        const ForwardOptions& options, uint64_t* dropout_sites = nullptr);
// Uploads and computes.
BatchLoss run_batch(Runtime& runtime, Model& model, const Batch& batch,
                    const ForwardOptions& options);

// Sum of losses in fp64, in token order.
double sum_losses(std::span<const float> losses);

// Number of labels a batch is trained on: targets that are not -100, or sequences.
int64_t trained_labels(const Model& model, const Batch& batch);

}  // namespace engine
