// From a checkpoint directory to a model that runs.
#pragma once

#include <memory>
#include <string>

#include "models/checkpoint_io.h"
#include "models/model.h"

namespace engine {

struct LoadedModel {
  Checkpoint checkpoint;
  std::unique_ptr<Runtime> runtime;
  PrecisionPolicy precision;
  std::unique_ptr<Model> model;
  LoadReport report;
};

struct LoadOptions {
  PrecisionPolicy precision;
  ParameterSet::Purpose purpose = ParameterSet::Purpose::inference;
  kernels::Stream device;  // engine/core/device.h
};

// Opens `directory_or_id` (see Checkpoint::open), makes the model its config.json describes and
// fills it on the device. Model::prepare() is left to the caller, who knows how many positions are
// needed. Throws what Checkpoint::open, make_model and load_weights throw, CKPT-MISSING for a
// classification head that is absent, and MEM-PLAN (out_of_memory) before anything is taken when
// the parameters alone exceed the memory that is available.
LoadedModel load_model(const std::string& directory_or_id, const LoadOptions& options);

}  // namespace engine
