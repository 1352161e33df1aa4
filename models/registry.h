// Finds the family of a config.json. Adding a family is one file, models/<family>.cpp, and one
// entry in the table of registry.cpp (docs/adding-a-model.md).
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "models/model.h"

namespace engine {

// The model a config.json describes, without memory for its parameters. `where` names the config
// in errors. The task is the one `architectures` names unless it is given; an encoder always
// classifies. Throws Error MODEL-UNKNOWN (checkpoint) for families that the engine does not know,
// MODEL-TASK for a task the family has not and for heads of other tasks, CONFIG-UNSUPPORTED for
// quantised exports.
std::unique_ptr<Model> make_model(const nlohmann::ordered_json& config, const std::string& where,
                                  std::optional<Task> task = std::nullopt);

// Another instance of the same model, without memory: for plans.
std::unique_ptr<Model> make_model_like(const Model& model);

// What each family's file defines: make_model for one model_type. The entries of the table.
using MakeFamily = std::unique_ptr<Model>(const nlohmann::ordered_json& config,
                                          const std::string& where, Task task);
MakeFamily make_gpt2, make_llama, make_qwen2, make_gemma3, make_roberta, make_t5;

}  // namespace engine
