// What `engine generate` decodes with: the user's settings, the checkpoint's
// generation_config.json, its config.json and the library's defaults, in that order (users.md 2.9).
#pragma once

#include <string>
#include <vector>

#include "engine/config/train_config.h"
#include "engine/generate/generator.h"

namespace engine {

struct GenerationSettings {
  GenerationOptions options;
  // Settings of generation_config.json that change HF's output and are not implemented here.
  std::vector<std::string> warnings;
};

// `generation_config` is the text of the checkpoint's generation_config.json, "" when there is
// none; `where` names it in errors. End-of-text ids come from there, else from config.json. Throws
// CKPT-CONFIG (checkpoint) for text that is not a JSON object or has values of a wrong type.
GenerationSettings resolve_generation(const GenerateConfig& config,
                                      const std::string& generation_config,
                                      const std::string& where, const ModelInfo& info);

}  // namespace engine
