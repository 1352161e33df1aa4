// What the config's choices mean to the operations.
#pragma once

#include "engine/autograd/graph.h"
#include "engine/config/train_config.h"

namespace engine {

PrecisionPolicy precision_policy(const TrainConfig& config);
RecomputePolicy recompute_policy(const RunConfig& config);

}  // namespace engine
