#include "models/registry.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>

#include "engine/core/error.h"

namespace engine {
namespace {

struct Family {
  const char* model_type;
  bool language_model;  // has a head that predicts the next token
  bool classification;  // has a sequence-classification head here
  MakeFamily* make;
};

const Family kFamilies[] = {
    {"gpt2", true, false, make_gpt2},       {"llama", true, true, make_llama},
    {"qwen2", true, true, make_qwen2},      {"gemma3_text", true, false, make_gemma3},
    {"gemma3", true, false, make_gemma3},  // multimodal: its text tower
    {"t5", true, false, make_t5},           {"mt5", true, false, make_t5},
    {"roberta", false, true, make_roberta}, {"xlm-roberta", false, true, make_roberta},
};

// Names of those for which `holds`.
std::string families(bool (*holds)(const Family&)) {
  std::string names;
  for (const Family& family : kFamilies) {
    if (holds(family)) names += (names.empty() ? "" : ", ") + std::string(family.model_type);
  }
  return names;
}

std::string text_of(const nlohmann::ordered_json& config, const char* key) {
  const auto it = config.find(key);
  return it != config.end() && it->is_string() ? it->get<std::string>() : std::string();
}

// Weights of a quantised export mean nothing without their scales, which nobody here reads.
void refuse_quantised(const nlohmann::ordered_json& config, const std::string& where) {
  for (const std::string key : {"quantization_config", "compression_config"}) {
    const auto it = config.find(key);
    if (it == config.end() || it->is_null()) continue;
    const std::string method = it->is_object() ? text_of(*it, "quant_method") : "";
    throw Error(ExitCode::checkpoint, "CONFIG-UNSUPPORTED",
                key + " = " + (method.empty() ? it->dump() : method) + " is not supported")
        .where(where)
        .expected("weights in F32, BF16 or F16")
        .found("a quantised export" + (method.empty() ? "" : " (" + method + ")"))
        .fix("use the original, unquantised checkpoint");
  }
}

// A head that is neither a language model's nor a sequence classifier's: the model would be another
// one without it. Who names a task wants its body only.
void refuse_other_heads(const std::string& architecture, const std::string& where) {
  for (const char* head : {"ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice",
                           "DoubleHeadsModel"}) {
    if (!architecture.ends_with(head)) continue;
    throw Error(ExitCode::checkpoint, "MODEL-TASK",
                "the head of this architecture is not supported: " + architecture)
        .where(where)
        .expected("a language model, or ...ForSequenceClassification")
        .fix("model.task=causal_lm or sequence_classification trains another head on its body");
  }
}

// Sizes that a config can name multiply to more than 64 bits hold. Nothing behind this checks for
// it.
void check_size(const Model& model, const std::string& where) {
  constexpr double kMaximum = 1e13;  // published models have up to some 1e12
  double parameters = 0;
  for (const auto& parameter : model.parameters()) {
    for (const ParameterPart& part : parameter->parts) {
      double count = 1;
      for (const int64_t size : part.shape.vector()) count *= static_cast<double>(size);
      parameters += count;
    }
  }
  if (parameters <= kMaximum) return;
  throw Error(ExitCode::checkpoint, "CONFIG-INVALID",
              fmt::format("the config asks for {:.1e} parameters", parameters))
      .where(where)
      .expected(fmt::format("at most {:.0e}", kMaximum))
      .why("a size in config.json is wrong");
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
  std::string known;
  for (const Family& family : kFamilies) {
    known += (known.empty() ? "" : ", ") + std::string(family.model_type);
    if (type != family.model_type) continue;
    if (!task) {
      refuse_other_heads(architecture, where);
      const bool classifier =
          architecture.ends_with("ForSequenceClassification") || !family.language_model;
      task = classifier ? Task::sequence_classification : Task::causal_lm;
    }
    if (*task == Task::sequence_classification && !family.classification) {
      throw Error(ExitCode::checkpoint, "MODEL-TASK",
                  "this family has no sequence-classification head here: " + type)
          .where(where)
          .fix("use model.task=causal_lm, or a family with one: " +
               families([](const Family& f) { return f.classification; }));
    }
    if (*task == Task::causal_lm && !family.language_model) {
      throw Error(ExitCode::checkpoint, "MODEL-TASK",
                  "an encoder cannot be trained to predict the next token: " + type)
          .where(where)
          .why("its tokens see those behind them")
          .fix("model.task=sequence_classification");
    }
    refuse_quantised(config, where);
    if (const auto text = config.find("text_config"); text != config.end()) {
      refuse_quantised(*text, where + ", text_config");
    }
    std::unique_ptr<Model> model = family.make(config, where, *task);
    check_size(*model, where);
    return model;
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
