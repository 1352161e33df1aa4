// Finds the family of a config.json. Adding a family is one file and one line here.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "models/model.h"

namespace engine {

// The model a config.json describes, without memory for its parameters. `where` names the config
// in errors. The task is the one `architectures` names unless it is given. Throws Error
// MODEL-UNKNOWN (checkpoint) for families that the engine does not know.
std::unique_ptr<Model> make_model(const nlohmann::ordered_json& config, const std::string& where,
                                  std::optional<Task> task = std::nullopt);

// Another instance of the same model, without memory: for plans.
std::unique_ptr<Model> make_model_like(const Model& model);

}  // namespace engine
