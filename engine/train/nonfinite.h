// Finds where a NaN or Inf came from, by running the step's batches again and looking at every
// layer.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "engine/step/run_batch.h"

namespace engine {

struct NonfiniteFinding {
  int micro_batch = 0;  // of the step, from 0
  std::string place;    // "hidden.3 (after layer 2)", "gradient of model.layers.1...", "weight ..."
  int64_t token = -1;   // in the batch, when the place is a hidden state
  int64_t sequence = -1;
  int64_t position = -1;  // in the sequence
};

// Looks at the weights, then at the hidden states, losses and parameter gradients of each batch, in
// the order they are computed. `options_of` gives the options the batch ran with. The parameter
// gradients are overwritten. Empty when everything is finite now.
std::optional<NonfiniteFinding> find_nonfinite(
    Runtime& runtime, Model& model, const std::vector<Batch>& batches,
    const std::function<ForwardOptions(int micro_batch)>& options_of);

}  // namespace engine
