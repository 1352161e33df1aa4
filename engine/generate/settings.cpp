#include "engine/generate/settings.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "engine/core/error.h"
#include "engine/core/json.h"
#include "models/config_reader.h"

namespace engine {
namespace {

nlohmann::json parse(const std::string& text, const std::string& where) {
  const Error error(ExitCode::checkpoint, "CKPT-CONFIG", where + " is not a JSON object");
  if (text.empty()) return nlohmann::json::object();
  try {
    auto json = parse_json<nlohmann::json>(text);
    if (!json.is_object()) throw error;
    return json;
  } catch (const nlohmann::json::exception& exception) {
    throw Error(error).found(exception.what());
  }
}

// Settings that this decoder lacks, with the value at which they do nothing.
std::vector<std::string> unsupported(const nlohmann::json& json) {
  const std::pair<const char*, double> kNeutral[] = {
      {"num_beams", 1},         {"no_repeat_ngram_size", 0}, {"typical_p", 1},
      {"epsilon_cutoff", 0},    {"eta_cutoff", 0},           {"encoder_repetition_penalty", 1},
      {"min_new_tokens", 0},    {"min_length", 0},           {"penalty_alpha", 0},
      {"diversity_penalty", 0}, {"num_beam_groups", 1},      {"encoder_no_repeat_ngram_size", 0},
  };
  std::vector<std::string> found;
  for (const auto& [key, neutral] : kNeutral) {
    const auto it = json.find(key);
    if (it == json.end() || !it->is_number() || it->get<double>() == neutral) continue;
    found.push_back(fmt::format("{}={}", key, it->dump()));
  }
  for (const char* key : {"suppress_tokens", "begin_suppress_tokens", "bad_words_ids",
                          "forced_bos_token_id", "forced_eos_token_id", "sequence_bias"}) {
    const auto it = json.find(key);
    if (it != json.end() && !it->is_null()) found.push_back(fmt::format("{}={}", key, it->dump()));
  }
  return found;
}

}  // namespace

GenerationSettings resolve_generation(const GenerateConfig& config,
                                      const std::string& generation_config,
                                      const std::string& where, const ModelInfo& info) {
  const bool inherit = config.inherit == GenerationInherit::checkpoint;
  const nlohmann::json json = parse(generation_config, where);
  const nlohmann::json none = nlohmann::json::object();
  const ConfigReader reader(inherit ? json : none, where);
  const auto number = [&](const std::optional<double>& own, const char* key, float standard) {
    return own ? static_cast<float>(*own) : reader.number(key, standard);
  };
  GenerationSettings settings;
  GenerationOptions& options = settings.options;
  SamplingOptions& sampling = options.sampling;
  sampling.do_sample = config.do_sample.value_or(reader.boolean("do_sample", false));
  sampling.temperature = number(config.temperature, "temperature", 1.0f);
  sampling.top_k = config.top_k.value_or(reader.integer("top_k", 50, 0));
  sampling.top_p = number(config.top_p, "top_p", 1.0f);
  sampling.min_p = number(config.min_p, "min_p", 0.0f);
  sampling.repetition_penalty = number(config.repetition_penalty, "repetition_penalty", 1.0f);
  options.max_new_tokens = config.max_new_tokens.value_or(reader.integer("max_new_tokens", 128, 1));
  options.seed = config.seed;
  // HF: "temperature": 0 is an error for sampling and of no meaning otherwise.
  if (sampling.do_sample && !(sampling.temperature > 0)) {
    throw Error(ExitCode::checkpoint, "CKPT-CONFIG", "temperature must be above 0 to sample")
        .where(where)
        .fix("temperature=0.7, or --greedy");
  }
  if (!config.ignore_eos) {
    // The ids belong to the model, not to the way of sampling: inherit=none keeps them.
    options.eos_ids = ConfigReader(json, where).ids("eos_token_id");
    if (options.eos_ids.empty()) options.eos_ids = info.eos_ids;
  }
  if (inherit) {
    for (const std::string& setting : unsupported(json)) {
      settings.warnings.push_back(where + ": " + setting + " is not implemented and has no effect");
    }
  }
  return settings;
}

}  // namespace engine
