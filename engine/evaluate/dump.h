// Everything a model computes on a few rows, in one safetensors file: to compare two
// implementations number by number.
//
//   logits.<row>              fp32 [tokens, vocab]; a classifier: [num_labels]
//   hidden.<i>.<row>          fp32 [tokens, hidden]; HF's numbering: 0 = embedding, the last one
//                             is after the final norm; an encoder-decoder model:
//                             encoder.hidden.<i>.<row> and decoder.hidden.<i>.<row>
//   loss                      fp32 [1], mean over all predicted labels of all rows (of classifiers,
//                             over the rows with one)
//   grad.<HF parameter name>  fp32, gradient of that loss
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "engine/step/run_batch.h"

namespace engine {

struct DumpRow {
  std::vector<int32_t> input_ids;
  // Language models: as in HF, one per token, not shifted, -100 = not predicted; labels[t] is
  // predicted at token t - 1. Empty: none.
  std::vector<int32_t> labels;
  // Encoder-decoder models: input_ids are the encoder's. labels[t] is predicted at the decoder's
  // input t, as many as these; without these they are the labels shifted right.
  std::vector<int32_t> decoder_input_ids;
  // Classifiers: the class, -1 = none; or, for regression and several labels at once, one number
  // per output, empty = none.
  int32_t class_label = -1;
  std::vector<float> targets;
};

struct DumpOptions {
  bool gradients = true;  // the model's memory must have been allocated for training
  bool logits = true, hidden_states = true;
  PrecisionPolicy precision;
};

struct DumpSummary {
  double loss = 0;  // 0 without labels
  int64_t labels = 0;
  size_t tensors = 0;
};

// Rows are computed one by one, each alone. Their ids must be in the vocabulary, labels as many as
// ids. Without any label the file has no loss, and gradients are a DATA-NO-TARGET error (data).
DumpSummary write_dump(Runtime& runtime, Model& model, const std::vector<DumpRow>& rows,
                       const DumpOptions& options, const std::filesystem::path& path);

}  // namespace engine
