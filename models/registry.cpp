#include "models/registry.h"

#include <nlohmann/json.hpp>

#include "engine/core/error.h"
#include "models/gpt2.h"
#include "models/llama.h"
#include "models/t5.h"

namespace engine {
namespace {

using Factory = std::unique_ptr<Model> (*)(const nlohmann::ordered_json&, const std::string&, Task);

struct Family {
  const char* model_type;
  bool classification;  // has a sequence-classification head here
  Factory make;
};

std::unique_ptr<Model> make_t5_model(const nlohmann::ordered_json& config, const std::string& where,
                                     Task) {
  return make_t5(config, where);
}

const Family kFamilies[] = {
    {"gpt2", false,
     [](const nlohmann::ordered_json& config, const std::string& where, Task) {
       return make_gpt2(config, where);
     }},
    {"llama", true, make_llama},
    {"mt5", false, make_t5_model},
    {"t5", false, make_t5_model},
};

std::string text_of(const nlohmann::ordered_json& config, const char* key) {
  const auto it = config.find(key);
  return it != config.end() && it->is_string() ? it->get<std::string>() : std::string();
}

}  // namespace

std::unique_ptr<Model> make_model(const nlohmann::ordered_json& config, const std::string& where,
                                  std::optional<Task> task) {
  std::string architecture;
  std::string type;
  if (config.is_object()) {
    type = text_of(config, "model_type");
    if (const auto it = config.find("architectures");
        it != config.end() && it->is_array() && !it->empty() && it->front().is_string()) {
      architecture = it->front().get<std::string>();
    }
  }
  if (!task) {
    task = architecture.ends_with("ForSequenceClassification") ? Task::sequence_classification
                                                               : Task::causal_lm;
  }
  std::string known;
  for (const Family& family : kFamilies) {
    known += (known.empty() ? "" : ", ") + std::string(family.model_type);
    if (type != family.model_type) continue;
    if (*task == Task::sequence_classification && !family.classification) {
      throw Error(ExitCode::checkpoint, "MODEL-TASK",
                  "this family has no sequence-classification head here: " + type)
          .where(where)
          .fix("use model.task=causal_lm, or a llama model");
    }
    return family.make(config, where, *task);
  }
  throw Error(ExitCode::checkpoint, "MODEL-UNKNOWN",
              type.empty() ? "config has no \"model_type\"" : "unknown model_type \"" + type + "\"")
      .where(where)
      .expected("one of " + known)
      .found(type.empty() ? "no model_type" : type)
      .fix("name the family in \"model_type\", or convert the checkpoint to one of these");
}

std::unique_ptr<Model> make_model_like(const Model& model) {
  return make_model(model.config_json(), "config.json", model.info().task);
}

}  // namespace engine
