#include "engine/evaluate/evaluation.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <span>

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

Answer make_answer(ProblemType type, const TokenisedData& data, uint32_t row,
                   std::vector<float> logits) {
  Answer answer{.file = data.files.at(data.rows.file(row)),
                .line = data.rows.line(row),
                .label = {},
                .logits = std::move(logits),
                .probabilities = {},
                .classes = {}};
  if (const int32_t label = data.rows.label(row); label >= 0) {
    answer.label = data.rows.label_names()[static_cast<size_t>(label)];
  }
  const std::vector<float>& z = answer.logits;
  if (type == ProblemType::single_label) {
    const auto highest = std::max_element(z.begin(), z.end());
    double sum = 0;
    for (const float one : z) sum += std::exp(double{one} - *highest);
    for (const float one : z)
      answer.probabilities.push_back(std::exp(double{one} - *highest) / sum);
    answer.classes = {static_cast<int>(highest - z.begin())};
  } else if (type == ProblemType::multi_label) {
    for (size_t i = 0; i < z.size(); ++i) {
      answer.probabilities.push_back(1.0 / (1.0 + std::exp(-double{z[i]})));
      if (z[i] > 0) answer.classes.push_back(static_cast<int>(i));
    }
  }
  return answer;
}

}  // namespace

Evaluation evaluate_checkpoint(const EvaluationRequest& request) {
  TrainConfig config = request.config;
  const kernels::Stream device = request.device;
  LoadedModel loaded =
      load_model(*config.model.path, {.precision = precision_policy(config), .device = device});
  Model& model = *loaded.model;
  const bool classifier = model.info().task == Task::sequence_classification;
  config.model.task = classifier ? ModelTask::sequence_classification : ModelTask::causal_lm;
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
  // Scores need no labels.
  const bool labels_required = !request.on_answer;
  if (classifier && !labels_required) config.data.on_no_target = OnNoTarget::keep;
  TokeniseOptions reading =
      classifier ? classification_options(config.data, config.data.validation, labels_required)
                 : tokenise_options(config.data, config.data.validation);
  reading.fields.pair_pad_id = pair_pad_id(model.info());
  if (model.info().encoder_decoder) check_pair_settings(config.data);
  const auto data = tokenise(reading, encoder);
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
  Evaluation result;
  LabelScheme labels;
  LabelTargets targets;
  std::map<uint32_t, std::vector<float>> scores;  // by row
  EvaluationOptions options{.precision = loaded.precision,
                            .max_batches = config.train.eval_max_batches,
                            .progress = request.progress};
  if (classifier) {
    labels = labels_of_model(model);
    targets = label_targets(labels, *data);
    options.label_targets = &targets;
    options.class_names = labels.names;
  }
  if (classifier && request.on_answer) {
    options.on_scores = [&](uint32_t row, std::span<const float> of_row) {
      scores[row] = {of_row.begin(), of_row.end()};
    };
  }
  result.record = evaluate(*loaded.runtime, model, batcher, options);
  if (!classifier) result.perplexity = std::exp(result.record.loss);
  result.data_summary = dataset->audit().summary();
  for (auto& [row, logits] : scores) {
    request.on_answer(make_answer(labels.problem_type, *data, row, std::move(logits)), labels);
  }
  return result;
}

}  // namespace engine
