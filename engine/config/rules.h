// What settings mean for each other: groups of which one may be set, what follows from what, and
// contradictions.
#pragma once

#include "engine/config/load.h"

namespace engine {

// Checks and completes `loaded`, whose schema is bound to its config. Throws CFG-CONFLICT and
// CFG-MISSING.
void apply_rules(const Schema& schema, const TrainConfigSource& source, LoadedTrainConfig& loaded);

}  // namespace engine
