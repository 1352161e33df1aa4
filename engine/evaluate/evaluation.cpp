#include "engine/evaluate/evaluation.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "engine/core/device.h"
#include "engine/core/error.h"
#include "engine/core/file_io.h"
#include "engine/data/batcher.h"
#include "engine/data/text_encoder.h"
#include "engine/step/memory_plan.h"
#include "engine/step/policies.h"
#include "models/load_model.h"
#include "models/registry.h"

namespace engine {
namespace {

// The class of every label name of the data: by label2id of config.json, else the number it is.
std::vector<int32_t> classes_of(const std::vector<std::string>& names, const Model& model) {
  const nlohmann::ordered_json& config = model.config_json();
  const auto label2id = config.find("label2id");
  std::vector<int32_t> classes;
  for (const std::string& name : names) {
    int32_t id = -1;
    if (label2id != config.end() && label2id->is_object() && label2id->contains(name) &&
        (*label2id)[name].is_number_integer()) {
      id = (*label2id)[name].get<int32_t>();
    } else {
      const auto [end, status] = std::from_chars(name.data(), name.data() + name.size(), id);
      if (status != std::errc() || end != name.data() + name.size()) id = -1;
    }
    if (id < 0 || id >= model.info().num_labels) {
      std::string known;
      if (label2id != config.end() && label2id->is_object()) {
        for (const auto& [label, value] : label2id->items()) {
          known += (known.empty() ? "" : ", ") + label;
        }
      }
      throw Error(ExitCode::data, "DATA-LABEL", "label \"" + name + "\" is not one of the classes")
          .expected(known.empty()
                        ? fmt::format("0 to {}", model.info().num_labels - 1)
                        : known + fmt::format(", or 0 to {}", model.info().num_labels - 1));
    }
    classes.push_back(id);
  }
  return classes;
}

}  // namespace

Evaluation evaluate_checkpoint(const EvaluationRequest& request) {
  TrainConfig config = request.config;
  const kernels::Stream device = request.device;
  LoadedModel loaded =
      load_model(*config.model.path, {.precision = precision_policy(config), .device = device});
  Model& model = *loaded.model;
  const bool classifier = model.info().task == Task::sequence_classification;
  if (classifier && config.data.label_field.empty()) config.data.label_field = "label";
  if (model.info().learned_positions && config.data.max_length > model.info().max_positions) {
    config.data.max_length = model.info().max_positions;
  }

  std::shared_ptr<const Tokenizer> tokenizer;
  try {
    tokenizer = std::make_shared<const Tokenizer>(Tokenizer::open(
        config.model.tokenizer.empty() ? loaded.checkpoint.directory()
                                       : std::filesystem::path(config.model.tokenizer)));
  } catch (const Error& error) {
    // Rows of token ids need none.
    if (!config.model.tokenizer.empty() || error.code() != "TOK-MISSING") throw;
  }
  TextEncoder encoder = make_text_encoder(tokenizer, chat_template_options(config.data));
  encoder.vocab_size = static_cast<int32_t>(model.info().vocab_size);
  TokeniseOptions reading = tokenise_options(config.data, config.data.validation);
  reading.fields.pair_pad_id = pair_pad_id(model.info());
  if (model.info().encoder_decoder) check_pair_settings(config.data);
  const auto data = tokenise(reading, encoder);
  if (classifier && data->rows.label_names().empty()) {
    throw Error(ExitCode::data, "DATA-FIELD", "a classifier is evaluated on rows with labels")
        .expected("field \"" + config.data.label_field + "\"")
        .fix("data.label_field=<the field with the class>");
  }
  const auto dataset = std::make_shared<Dataset>(data, dataset_options(config, RowSubset::all));
  BatchOptions batching = batch_options(config);
  batching.shuffle = Shuffle::none;
  batching.decoder_start_id = model.info().decoder_start_id;
  const Batcher batcher(dataset, batching);

  int64_t longest = 0;
  for (const uint32_t tokens : dataset->all_sample_tokens()) {
    longest = std::max<int64_t>(longest, tokens);
  }
  model.prepare(*loaded.runtime, longest);
  const MemoryPlan plan =
      plan_inference([&] { return make_model_like(model); }, {.precision = loaded.precision,
                                                              .batch = largest_shape(batcher),
                                                              .max_positions = longest,
                                                              .device = device.device});
  if (const size_t available = available_memory(loaded.runtime->stream()); plan.arena > available) {
    throw Error(ExitCode::out_of_memory, "MEM-PLAN",
                "a batch of this evaluation needs " + format_bytes(plan.arena))
        .expected("at most " + format_bytes(available) + ", " + memory_source(device))
        .fix("a smaller train.micro_batch_tokens");
  }
  loaded.runtime->memory().reserve_arena(plan.arena);
  std::vector<int32_t> classes;
  if (classifier) classes = classes_of(data->rows.label_names(), model);
  Evaluation result;
  result.record = evaluate(*loaded.runtime, model, batcher,
                           {.precision = loaded.precision,
                            .max_batches = config.train.eval_max_batches,
                            .class_of_label = classifier ? &classes : nullptr,
                            .progress = request.progress});
  if (!classifier) result.perplexity = std::exp(result.record.loss);
  result.data_summary = dataset->audit().summary();
  return result;
}

}  // namespace engine
