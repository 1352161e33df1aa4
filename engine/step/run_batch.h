// One batch through a model: forward to its losses, backward into the parameter gradients.
#pragma once

#include <span>
#include <vector>

#include "engine/data/batch.h"
#include "models/model.h"

namespace engine {

// A host batch on the device.
ModelBatch upload_batch(Runtime& runtime, const Batch& batch);

// All that the computation of a batch reads besides the parameters.
struct BatchInputs {
  ModelBatch batch;
  Tensor rows, classes;  // classification: i32 [S], token row that is classified, and its class
};
BatchInputs upload_inputs(Runtime& runtime, const Model& model, const Batch& batch,
                          const std::vector<int32_t>* class_of_label = nullptr);
// What a recording of the computation repeats: addresses and sizes of the inputs, and the numbers
// that the host reads. Equal for two batches: their computations queue the same operations.
std::vector<int64_t> signature(const BatchInputs& inputs);

// Classification: token row of each sequence that is classified. The rightmost one whose id is not
// the pad id, as in HF (models.md 1.6), or the last one when there is no pad id.
std::vector<int32_t> pooled_rows(const Model& model, const Batch& batch);

// Losses of one batch, per token (0 where the target is -100) or, for classification, per sequence.
struct BatchLoss {
  Tensor losses;  // fp32 on the device
  Tensor argmax;  // i32, when asked for
};

// Seconds spent, added up over batches. The head counts forward and backward: it is one operation.
struct BatchTimes {
  double forward = 0, head = 0, backward = 0;
};

struct ForwardOptions {
  Graph::Options graph;
  kernels::Scalar<float> grad_scale = 1.0f;  // gradient of each token's loss
  bool argmax = false;
  // Classification: class of each label id of the batch; null = the label ids are the classes.
  const std::vector<int32_t>* class_of_label = nullptr;
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
