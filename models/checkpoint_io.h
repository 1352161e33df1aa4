// Weights from a checkpoint into a model, and back out.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "models/model.h"
#include "weights/checkpoint.h"

namespace engine {

// How a checkpoint spelled and stored each tensor of the model, so that saving gives it back alike.
// Key: the model's own name of the tensor.
struct StoredTensor {
  std::string name;
  FileDtype dtype = FileDtype::f32;
};
using StoredTensors = std::map<std::string, StoredTensor>;

// How `checkpoint` spells and stores the tensors of `model`, without reading them; absent ones are
// left out. What load_weights reports of the same two.
StoredTensors stored_tensors(const Model& model, const Checkpoint& checkpoint);

struct LoadReport {
  StoredTensors stored;
  std::vector<std::string> initialized;  // absent in the checkpoint, made anew: a classifier's head
  std::vector<std::string> unused;       // in the checkpoint, of no use to the model
};

// Fills the parameters (their memory must be allocated). A classification head that the checkpoint
// lacks keeps what it has: initialise before. Throws CKPT-MISSING, CKPT-SHAPE, CKPT-DTYPE.
LoadReport load_weights(Runtime& runtime, Model& model, const Checkpoint& checkpoint);

// The model's tensors under their stored names, or `fallback` dtype and own names for those that
// came from nowhere. A `forced` dtype replaces the stored ones. Sources read from the runtime while
// the file is written, so no second copy of the model exists.
std::vector<TensorToWrite> tensors_to_write(Runtime& runtime, Model& model,
                                            const StoredTensors& stored, FileDtype fallback,
                                            std::optional<FileDtype> forced = std::nullopt);

}  // namespace engine
