// What a model consists of, for people and for reports: parameters with layers folded, and how a
// checkpoint's tensors fit them. Needs no memory for the parameters.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "models/model.h"
#include "weights/checkpoint.h"

namespace engine {

// Tensors of the same name up to the number of their layer, and of the same shape and type.
struct TensorGroup {
  std::string name;  // "model.layers.*.mlp.up_proj.weight"
  std::vector<int64_t> shape;
  std::string dtype;  // as in the checkpoint, "BF16"; "" without one
  int64_t tensors = 0;
  int64_t parameters = 0;  // of all of them
};

struct TiedTensor {
  std::string name;  // "lm_head.weight"
  std::string to;    // "model.embed_tokens.weight"
};

struct ModelDescription {
  std::vector<TensorGroup> groups;  // in the order of the model
  int64_t parameters = 0;           // a tied head counts once
  int64_t tensors = 0;
  std::vector<TiedTensor> tied;
  // With a checkpoint.
  std::vector<std::string> missing;  // the model needs them
  std::vector<std::string> unused;   // nobody asks for them
  std::vector<std::string> ignored;  // known to be of no use
};

// `checkpoint` may be null. Throws CKPT-SHAPE and CKPT-DTYPE for tensors that do not fit.
ModelDescription describe_model(const Model& model, const Checkpoint* checkpoint);

// "model.layers.3.mlp" -> "model.layers.*.mlp": the first number between dots.
std::string without_layer(const std::string& name);

}  // namespace engine
